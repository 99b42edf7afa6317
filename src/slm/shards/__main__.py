"""`python -m slm.shards recipe=NAME`."""

from slm.compose import command
from slm.shards import run


def main() -> None:
    command("shards", run)


if __name__ == "__main__":
    main()
