"""`python -m slm.train recipe=NAME`."""

from slm.compose import command
from slm.recipe import Recipe
from slm.train import run
from slm.train.ledger import process_began


def main() -> None:
    """Train what the recipe says; the first run of a sweep began with the process."""
    began = [process_began()]

    def job(recipe: Recipe) -> None:
        run(recipe, began.pop() if began else None)

    command("train", job)


if __name__ == "__main__":
    main()
