"""`python -m slm.safety recipe=NAME`."""

from slm.compose import command
from slm.safety import run


def main() -> None:
    command("safety", run)


if __name__ == "__main__":
    main()
