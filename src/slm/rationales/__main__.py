"""`python -m slm.rationales recipe=NAME`."""

from slm.compose import command
from slm.rationales import run


def main() -> None:
    command("rationales", run)


if __name__ == "__main__":
    main()
