"""Which tasks to run, from which files, and how answers are judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slm.core.config import Config, neutral

Layout = Literal["query", "arc", "hellaswag", "xnli", "gsm8k", "squad", "humaneval", "mbpp", "mt_bench", "text"]
CHOICE: tuple[Layout, ...] = ("query", "arc", "hellaswag", "xnli")
CODE: tuple[Layout, ...] = ("humaneval", "mbpp")
ANSWER: tuple[Layout, ...] = ("gsm8k", "squad")
TAKEN_BY: dict[str, tuple[Layout, ...]] = {
    "few_shot": (*CHOICE, *ANSWER),
    "examples": (*CHOICE, *ANSWER),
    "prefix": (*CHOICE, *ANSWER),
    "chat": (*CHOICE, *ANSWER),
    "max_tokens": (*ANSWER, *CODE, "mt_bench"),
    "samples": CODE,
    "temperature": CODE,
}
"""Settings that only some layouts have a use for."""


class TaskConfig(Config):
    """A task whose items lie in a file here; nothing is fetched."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """The name by which evaluate.tasks asks for it, and under which corpus.decontamination.against checks its items."""
    layout: Layout
    """What the file's items look like: as published for the task of that name; query is llm-foundry's (query, choices,
    gold), squad SQuAD's and XQuAD's, text a document a line, of which bits per byte are taken."""
    path: str = Field(min_length=1)
    """A file: .jsonl, .json, .csv, .tsv or .txt, plain or .gz."""
    id_field: str = ""
    """The field that identifies an item, as in corpus.decontamination.against; empty takes a hash of the prompt."""
    language: str = ""
    """The language of the items, such as de; squad and xnli take their words for question and answer from it."""
    max_items: int = Field(0, ge=0)
    """Items to take, at even distances; 0 takes all."""
    few_shot: int = Field(0, ge=0)
    """Solved examples in front of each item, the same for all."""
    examples: str = ""
    """The file, of the same layout, whose first items are these examples; never the evaluated file."""
    prefix: str = ""
    """Text in front of each prompt, such as the word that names the task to a model trained on several."""
    chat: bool = False
    """Ask as a user's turn in the chat template, as models trained on conversations expect; of a choice the end of the
    turn counts too."""
    max_tokens: int = Field(0, ge=0)
    """Longest answer; 0 takes 256, for code 512 and for squad 32, but at most half the model's context."""
    samples: int = Field(1, ge=1)
    """humaneval, mbpp: programs drawn for each item; pass@1, @10 and @100 are estimated from them."""
    temperature: float = Field(0.0, ge=0)
    """humaneval, mbpp: 0 takes the likeliest token, more draws; 0.2 is usual for pass@1, 0.8 for pass@100
    (arXiv 2107.03374)."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> TaskConfig:
        for name, layouts in TAKEN_BY.items():
            if self.layout not in layouts and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on layout {self.layout}; remove it")
        if bool(self.few_shot) != bool(self.examples):
            raise ValueError("few_shot and examples go together: how many, and the file that they come from")
        if self.examples and self.examples == self.path:
            raise ValueError("examples must not be the evaluated file; name the task's training split")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples ({self.samples}) at temperature 0 are all the same; raise it, such as 0.8")
        return self


class HarnessConfig(Config):
    """Tasks that are not among evaluate.task_files are lm-eval's, by its names; needs `pip install 'slm[eval]'`."""

    folder: str = ""
    """Where YAML definitions of tasks of your own lie; looked at before those that lm-eval comes with."""
    max_items: int = Field(0, ge=0)
    """Items of each task, the first ones; 0 takes all."""
    few_shot: int = Field(-1, ge=-1)
    """Examples in front of each item; -1 takes what the task says."""


class SandboxConfig(Config):
    """What a program that the model wrote may take; beyond it the program is ended and has failed."""

    seconds: float = Field(10.0, gt=0)
    """Wall-clock time of a program with its tests; processor time is bounded by the same, rounded up."""
    memory_mb: int = Field(1_024, ge=64)
    """Address space of each of its processes."""
    file_mb: int = Field(16, ge=0)
    """Largest file that it may write."""
    processes: int = Field(16, ge=1)
    """Processes and threads at once, itself included."""
    workers: int = neutral(0, ge=0)
    """Programs run at once; 0 takes one a core."""
