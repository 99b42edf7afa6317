"""`python -m slm.serve recipe=NAME`."""

from slm.compose import command
from slm.serve import run


def main() -> None:
    """Run the stage."""
    command("serve", run)


if __name__ == "__main__":
    main()
