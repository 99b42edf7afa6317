"""`python -m slm.evaluate recipe=NAME [tasks=[NAME,...]]`."""

from slm.compose import command
from slm.evaluate import run

SHORTCUTS = {"tasks": "evaluate.tasks"}


def main() -> None:
    """Evaluate a checkpoint."""
    command("evaluate", run, SHORTCUTS)


if __name__ == "__main__":
    main()
