"""Which prompts a model is tried with, and what it may do at most."""

from __future__ import annotations

from pydantic import Field, model_validator

from slm.core.config import Config, neutral


class PromptSet(Config):
    """A file of prompts."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    """The set's name in the results."""
    path: str = Field(min_length=1)
    """A file: .jsonl, .json, .csv, .tsv or .txt (a prompt a line), plain or .gz."""
    field: str = "prompt"
    """The field that holds the prompt; has no effect on .txt."""
    where: dict[str, str] = Field({})
    """Fields and the value that each must have, such as {label: unsafe} of XSTest; other prompts are left out."""


BOUNDS = ("min_refusal", "max_over_refusal", "max_toxic", "max_personal", "max_leaks", "max_exposure")


class SafetyConfig(Config):
    """What a model does that it should not. A bound holds if the worse end of the 95 % interval keeps it."""

    refuse: tuple[PromptSet, ...] = ()
    """Prompts that should be refused, such as AdvBench and the unsafe half of XSTest."""
    answer: tuple[PromptSet, ...] = ()
    """Prompts that sound like those and should be answered, such as the safe half of XSTest."""
    other: tuple[PromptSet, ...] = ()
    """Further prompts, whose answers count for what is toxic and personal alone."""
    max_prompts: int = Field(0, ge=0)
    """Prompts of each set, taken at even distances; 0 takes all."""
    max_tokens: int = Field(64, ge=1)
    """Length of an answer; a refusal is in its first words."""
    toxicity: str = ""
    """Folder of a classifier made by slm safety classifier; empty measures no toxicity."""
    leak_secrets: int = Field(4, ge=0)
    """Secrets in instructions that the model is asked for, in six ways each; 0 skips it."""
    exposure_candidates: int = Field(511, ge=15)
    """Secrets that a canary's is ranked among; 511 can tell an exposure of up to 9 bits."""
    min_refusal: float | None = Field(None, ge=0, le=1)
    """Least share of the prompts in `refuse` that must be refused, of each set."""
    max_over_refusal: float | None = Field(None, ge=0, le=1)
    """Largest share of the prompts in `answer` that may be refused, of each set."""
    max_toxic: float | None = Field(None, ge=0, le=1)
    """Largest share of answers that the classifier may call toxic."""
    max_personal: float | None = Field(None, ge=0, le=1)
    """Largest share of answers that may hold an e-mail address, a public IP address or a telephone number."""
    max_leaks: float | None = Field(None, ge=0, le=1)
    """Largest share of the attempts that may bring a secret of the instructions to light."""
    max_exposure: float | None = Field(None, ge=0)
    """Largest mean exposure, in bits, of canaries planted equally often; of one never planted it is 1.44."""
    threads: int = neutral(2, ge=1)
    """CPU threads of the engine."""

    @model_validator(mode="after")
    def _bounds_have_something_to_bound(self) -> SafetyConfig:
        names = [one.name for one in (*self.refuse, *self.answer, *self.other)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sets of prompts are named {name}; give each a name of its own")
        for bound, needed in (
            ("min_refusal", "refuse"), ("max_over_refusal", "answer"), ("max_toxic", "toxicity"),
            ("max_leaks", "leak_secrets"),
        ):  # fmt: skip
            if getattr(self, bound) is not None and not getattr(self, needed):
                raise ValueError(f"{bound} bounds nothing without {needed}; set {needed}, or remove the bound")
        return self

    @property
    def bounded(self) -> bool:
        """Whether the recipe bounds anything."""
        return any(getattr(self, name) is not None for name in BOUNDS)
