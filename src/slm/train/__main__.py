"""`python -m slm.train recipe=NAME`."""

from slm.compose import command
from slm.train import run


def main() -> None:
    """Train what the recipe says."""
    command("train", run)


if __name__ == "__main__":
    main()
