"""`python -m slm.sweep recipe=NAME`."""

import sys

from slm.compose import command
from slm.recipe import Recipe
from slm.sweep import run


def main() -> None:
    """Search what the recipe's section `sweep` names."""
    typed = sys.argv[1:]

    def job(recipe: Recipe) -> None:
        run(recipe, typed)

    command("sweep", job)


if __name__ == "__main__":
    main()
