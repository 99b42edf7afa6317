"""`python -m slm.release recipe=NAME`."""

from slm.compose import command
from slm.release import run


def main() -> None:
    command("release", run)


if __name__ == "__main__":
    main()
