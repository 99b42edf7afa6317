"""`python -m slm.tokenizer recipe=NAME`."""

from slm.compose import command
from slm.tokenizer import run


def main() -> None:
    command("tokenizer", run)


if __name__ == "__main__":
    main()
