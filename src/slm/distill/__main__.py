"""`python -m slm.distill recipe=NAME`."""

from slm.compose import command
from slm.distill import run


def main() -> None:
    command("distill", run)


if __name__ == "__main__":
    main()
