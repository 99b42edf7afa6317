"""`python -m slm.compress recipe=NAME`."""

from slm.compose import command
from slm.compress import run


def main() -> None:
    command("compress", run)


if __name__ == "__main__":
    main()
