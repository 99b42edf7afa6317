"""What every stage stands on: artifacts, configuration, console, seeds, errors. Imports nothing of ours."""
