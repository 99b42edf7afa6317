"""`slm card recipe=NAME`: the data card of a run's corpus, as HTML and Markdown.

In: the corpus of the run, and its tokenizer and shards where they are made. Out: `runs/RUN/card`.
"""

from __future__ import annotations

from slm.compose import command
from slm.recipe import Recipe
from slm.report.card import make_card


def run(recipe: Recipe) -> None:
    """Write the card."""
    make_card(recipe)


def main() -> None:
    command("card", run)


if __name__ == "__main__":
    main()
