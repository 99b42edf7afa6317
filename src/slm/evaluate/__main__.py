"""`python -m slm.evaluate recipe=NAME`."""

from slm.compose import command
from slm.evaluate import run


def main() -> None:
    command("evaluate", run)


if __name__ == "__main__":
    main()
