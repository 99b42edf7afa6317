"""`python -m slm.report recipe=NAME`."""

from slm.compose import command
from slm.report import run


def main() -> None:
    command("report", run)


if __name__ == "__main__":
    main()
