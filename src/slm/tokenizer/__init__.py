"""Documents to a frozen SentencePiece model, its Hugging Face form and a report on it.

In: a corpus. Out: `tokenizer.model`, whose hash everything made with it carries, `tokenizer.json` and
`tokenizer_config.json`, `chat_template.jinja` and `report.json`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe
    from slm.tokenizer.gguf import GgufVocabulary
    from slm.tokenizer.hugging_face import write_hugging_face
    from slm.tokenizer.tokenizer import Tokenizer

__all__ = ["GgufVocabulary", "Tokenizer", "run", "write_hugging_face"]

_HOMES = {"GgufVocabulary": "gguf", "Tokenizer": "tokenizer", "write_hugging_face": "hugging_face"}


def run(recipe: Recipe) -> Artifact:
    """Make the tokenizer that the recipe asks for from its corpus, or find it made."""
    from slm.core.artifact import Draft, Spec, make

    if recipe.artifacts.tokenizer:
        return recipe.artifact("tokenizer")
    corpus, config = recipe.artifact("corpus"), recipe.tokenizer
    shares = {}
    if recipe.shards.mixture and not config.weights:
        from slm.tokenizer.shares import bytes_of_sources, shares_of_mixture

        shares = shares_of_mixture(recipe.shards.mixture, bytes_of_sources(corpus), recipe.train.tokens)

    def build(draft: Draft) -> None:
        from slm.core.console import say
        from slm.tokenizer.build import build_tokenizer

        if shares:
            told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
            say(f"tokenizer: sources in their shares of shards.mixture, as tokenizer.weights is empty: {told}")
        build_tokenizer(config.model_copy(update={"weights": config.weights or shares}), corpus, draft)

    spec = Spec("tokenizer", config, {"corpus": corpus}, {"shares_of_mixture": shares} if shares else {})
    return make(recipe.folder("tokenizer"), spec, build, redo=recipe.redo)


def __getattr__(name: str) -> Any:
    """Classes of this package on first use: importing the package alone stays cheap."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"slm.tokenizer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slm.tokenizer' has no attribute {name!r}")
