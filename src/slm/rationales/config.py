"""Which questions a teacher is asked, how, and what of its answers is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slm.core.config import Config, neutral
from slm.serve.config import ServerConfig


class ItemsConfig(Config):
    """A file of questions with their answers, as evaluate.task_files describes one."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """What its items are called in ids."""
    layout: Literal["query", "arc", "gsm8k"]
    """What the file's items look like; these are the layouts whose answers can be checked."""
    path: str = Field(min_length=1)
    """A file: .jsonl, .json, .csv or .tsv, plain or .gz; of a training split, never an evaluation's."""
    id_field: str = ""
    """The field that identifies an item; empty takes a hash of the prompt."""
    max_items: int = Field(0, ge=0)
    """Items to take, at even distances; 0 takes all."""


class RationalesConfig(Config):
    """A teacher's reasons for answers that are known."""

    items: tuple[ItemsConfig, ...] = ()
    """What is asked."""
    teacher: str = neutral("")
    """A model that answers here: a run, a checkpoint, a Hugging Face folder or a .gguf; empty asks the server."""
    server: ServerConfig = ServerConfig()
    """A server that answers, in place of a teacher here."""
    prompt: str = (
        "{question}\n\nThink in at most two short sentences. Then end with a line that holds nothing but #### and the "
        "answer, such as\n#### 42"
    )
    """What the teacher is asked; {question} stands for the question, with its choices by letter where there are any."""
    samples: int = Field(4, ge=1)
    """Answers asked for an item at most; it is asked again only while none of its rationales was kept."""
    temperature: float = Field(0.7, ge=0)
    """At which answers are drawn; 0 takes the likeliest token, so one sample is all there is."""
    answer_tokens: int = Field(256, ge=1)
    """Longest answer that the teacher may give, in its own tokens."""
    max_tokens: int = Field(64, ge=1)
    """Longest rationale that is kept, in the tokens of the recipe's tokenizer: small models learn from short ones."""
    parallel: int = neutral(8, ge=1)
    """Questions that a server works on at once."""
    batch_tokens: int = neutral(4_096, ge=1)
    """Positions of prompts and answers that a checkpoint here computes together."""
    price_per_million_prompt: float = neutral(0.0, ge=0)
    """What a million tokens of prompts cost, in any currency; 0 is unknown or nothing."""
    price_per_million_answer: float = neutral(0.0, ge=0)
    """What a million tokens of answers cost."""

    @model_validator(mode="after")
    def _can_be_checked(self) -> RationalesConfig:
        names = [one.name for one in self.items]
        for one in self.items:
            if names.count(one.name) > 1:
                raise ValueError(f"items: {one.name} stands there twice; give each a name of its own")
        if "{question}" not in self.prompt:
            raise ValueError("prompt must hold {question}, where the question is put in; add it")
        if self.samples > 1 and not self.temperature:
            raise ValueError(f"samples ({self.samples}) at temperature 0 are all the same; raise it, such as to 0.7")
        if self.teacher and self.server.url:
            raise ValueError("teacher and server.url both name a teacher; leave one of them out")
        return self
