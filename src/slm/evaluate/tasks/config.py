"""Which tasks to run, and from which files."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slm.core.config import Config

Layout = Literal["query", "arc", "hellaswag", "xnli", "text"]
CHOICE: tuple[Layout, ...] = ("query", "arc", "hellaswag", "xnli")
TAKEN_BY: dict[str, tuple[Layout, ...]] = {
    "few_shot": CHOICE,
    "examples": CHOICE,
}
"""Settings that only some layouts have a use for."""


class TaskConfig(Config):
    """A task whose items lie in a file here; nothing is fetched."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """The name by which evaluate.tasks asks for it, and under which corpus.decontamination.against checks its items."""
    layout: Layout
    """What the file's items look like: as published for the task of that name; query is llm-foundry's (query, choices,
    gold), text a document a line, of which bits per byte are taken."""
    path: str = Field(min_length=1)
    """A file: .jsonl, .json, .csv, .tsv or .txt, plain or .gz."""
    id_field: str = ""
    """The field that identifies an item, as in corpus.decontamination.against; empty takes a hash of the prompt."""
    language: str = ""
    """The language of the items, such as de; xnli takes its words from it."""
    max_items: int = Field(0, ge=0)
    """Items to take, at even distances; 0 takes all."""
    few_shot: int = Field(0, ge=0)
    """Solved examples in front of each item, the same for all."""
    examples: str = ""
    """The file, of the same layout, whose first items are these examples; never the evaluated file."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> TaskConfig:
        for name, layouts in TAKEN_BY.items():
            if self.layout not in layouts and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on layout {self.layout}; remove it")
        if bool(self.few_shot) != bool(self.examples):
            raise ValueError("few_shot and examples go together: how many, and the file that they come from")
        if self.examples and self.examples == self.path:
            raise ValueError("examples must not be the evaluated file; name the task's training split")
        return self


class HarnessConfig(Config):
    """Tasks that are not among evaluate.task_files are lm-eval's, by its names; needs `pip install 'slm[eval]'`."""

    folder: str = ""
    """Where YAML definitions of tasks of your own lie; looked at before those that lm-eval comes with."""
    max_items: int = Field(0, ge=0)
    """Items of each task, the first ones; 0 takes all."""
    few_shot: int = Field(-1, ge=-1)
    """Examples in front of each item; -1 takes what the task says."""
