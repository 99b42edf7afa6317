"""`python -m slm.export recipe=NAME`."""

from slm.compose import command
from slm.export import run


def main() -> None:
    command("export", run)


if __name__ == "__main__":
    main()
