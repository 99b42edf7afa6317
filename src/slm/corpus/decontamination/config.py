"""Which evaluations the corpus is kept clean of, and what becomes of a document that holds one of their items."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.config import Config


class BenchmarkConfig(Config):
    """A file of evaluation items."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """The evaluation's name in reports."""
    path: str = Field(min_length=1)
    """A file: .jsonl, .json, .csv or .txt (an item a line), plain or .gz."""
    fields: tuple[str, ...] = ()
    """Fields of an item that count, each on its own; a.b goes inside, lists are gone through. Not for .txt."""
    id_field: str = ""
    """The field that identifies an item; empty takes its number in the file, from 1."""
    items: str = ""
    """.json: where the list of items is, such as data.paragraphs.qas; empty if the file is a list."""
    remove: str = ""
    """A regular expression whose matches are taken out of each field first, such as ^Question: in front of all."""

    @field_validator("remove")
    @classmethod
    def _is_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error}); correct it") from None
        return value


class DecontaminationConfig(Config):
    """Documents that hold items of an evaluation are left out or cut."""

    enabled: bool = True
    """Check documents; those of a synthetic source are checked whatever this says."""
    against: tuple[BenchmarkConfig, ...] = ()
    """Evaluations beside the files that the recipe itself names (evaluate.golden, evaluate.task_files)."""
    ngram_words: int = Field(13, ge=2, le=64)
    """Words in a run that, shared with an item, is a hit. 13 as published for GPT-3 (arXiv 2005.14165, appendix C)."""
    min_words: int = Field(8, ge=1)
    """Items with fewer words than ngram_words hit as a whole, from so many on; shorter ones cannot be told from
    common phrases and are counted as unchecked. 8 is the least that GPT-3's authors used."""
    action: Literal["drop", "cut"] = "drop"
    """Leave out a document with a hit, or cut the hit with cut_characters on each side and keep the pieces."""
    cut_characters: int = Field(200, ge=0)
    """cut: characters taken out on each side of a hit. 200 as for GPT-3."""
    min_piece_characters: int = Field(200, ge=1)
    """cut: shorter pieces are left out. 200 as for GPT-3."""
    max_cuts: int = Field(10, ge=1)
    """cut: a document with more hits than this is left out. 10 as for GPT-3."""

    @model_validator(mode="after")
    def _fits_together(self) -> DecontaminationConfig:
        if self.min_words > self.ngram_words:
            raise ValueError(f"min_words ({self.min_words}) must not exceed ngram_words ({self.ngram_words}); lower it")
        names = [item.name for item in self.against]
        for name in names:
            if names.count(name) > 1 or name == GOLDEN:
                raise ValueError(f"against: the name {name} is taken; give each evaluation a name of its own")
        for name in ("cut_characters", "min_piece_characters", "max_cuts"):
            if self.action == "drop" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on action drop; remove it, or set action to cut")
        return self


GOLDEN = "golden"
"""The name of the recipe's golden prompts among the evaluations."""
