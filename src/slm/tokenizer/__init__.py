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
    corpus = recipe.artifact("corpus")

    def build(draft: Draft) -> None:
        from slm.tokenizer.build import build_tokenizer

        build_tokenizer(recipe.tokenizer, corpus, draft)

    spec = Spec("tokenizer", recipe.tokenizer, parents={"corpus": corpus})
    return make(recipe.folder("tokenizer"), spec, build, redo=recipe.redo)


def __getattr__(name: str) -> Any:
    """Classes of this package on first use: importing the package alone stays cheap."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"slm.tokenizer.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'slm.tokenizer' has no attribute {name!r}")
