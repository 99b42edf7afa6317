"""`python -m slm.corpus recipe=NAME`."""

from slm.compose import command
from slm.corpus import run


def main() -> None:
    command("corpus", run)


if __name__ == "__main__":
    main()
