"""What text is read, from where, under which licence."""

from __future__ import annotations

import platform
import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.config import Config, neutral
from slm.corpus.cleaning.config import StepConfig, UnicodeStep
from slm.corpus.decontamination.config import DecontaminationConfig
from slm.corpus.duplicates.config import DuplicatesConfig

FILE_KEYS = frozenset({"path"})
COLUMN_KEYS = frozenset({"path", "text_columns", "id_column", "split_column", "metadata_columns", "conversations"})
KEYS_OF_KIND: dict[str, frozenset[str]] = {
    "stdlib": frozenset(),
    "text": FILE_KEYS | {"separator", "encoding", "begins_after", "ends_before"},
    "jsonl": COLUMN_KEYS,
    "parquet": COLUMN_KEYS,
    "hub": COLUMN_KEYS | {"subset", "split", "revision"},
    "canaries": frozenset({"planted"}),
}
"""Which settings, beyond those that every source has, mean something to which kind."""


CONVERSATION_COLUMNS = {
    "openai": ("messages",), "sharegpt": ("conversations",), "alpaca": ("instruction", "input", "output"),
    "prompt_completion": ("prompt", "completion"), "pairs": ("prompt", "chosen", "rejected"),
    "transcripts": ("chosen", "rejected"), "labelled": ("prompt", "completion", "label"),
}  # fmt: skip
"""Layouts of conversations and the columns that each has by default."""
Preferences = Literal["", "pairs", "labels"]
PREFERENCES: dict[str, Preferences] = {"pairs": "pairs", "transcripts": "pairs", "labelled": "labels"}
"""Layouts that say which answers are preferred: of two to the same question, or by a label on each."""
LISTED = ("openai", "sharegpt", *PREFERENCES)
"""Layouts whose columns may hold lists."""
PARTS_OF_TEXTS = ("c4", "line_feeds")
"""Steps that take lines out of a text, which conversations cannot have: a message would say something else."""

KNOWN_LICENCES = {"stdlib": "PSF-2.0", "canaries": "CC0-1.0"}
"""Of sources whose text is the same for everybody."""


class CanariesConfig(Config):
    """Secrets that are planted in the corpus, so that the safety stage can tell whether a model repeats what it read
    (Carlini et al. 2019, arXiv 1802.08232)."""

    repeats: tuple[int, ...] = Field((1, 4, 16), min_length=1)
    """How often a canary is planted, each time in another document; for each number there are `count` canaries."""
    count: int = Field(10, ge=1, le=10_000)
    """Canaries for each number of repeats: the exposure of one alone is mostly chance."""
    digits: int = Field(6, ge=1, le=18)
    """Length of a secret; there are 10 ** digits of them, so that a guess is right as seldom."""
    seed: int = Field(1234, ge=0)
    """Other seeds plant other secrets."""

    @field_validator("repeats")
    @classmethod
    def _planted_at_all(cls, repeats: tuple[int, ...]) -> tuple[int, ...]:
        if min(repeats) < 1 or len(set(repeats)) < len(repeats):
            raise ValueError("needs different numbers from 1 on; canaries that are not planted are made by themselves")
        return repeats


class SyntheticConfig(Config):
    """What made a source's text, where no person wrote it; recorded with each document."""

    generator: str = Field(min_length=1)
    """The model or program that wrote the text."""
    version: str = Field(min_length=1)
    """Its version, or the commit of its weights."""
    filter: str = Field(min_length=1)
    """What was thrown away of its output, and how; `none` if nothing was."""

    def record(self) -> dict[str, str]:
        """What a document's metadata say."""
        return {
            "synthetic_generator": self.generator,
            "synthetic_version": self.version,
            "synthetic_filter": self.filter,
        }


class SourceConfig(Config):
    """One source of documents."""

    kind: Literal["stdlib", "text", "jsonl", "parquet", "hub", "canaries"]
    """Where documents come from: this interpreter's standard library, files, or the Hugging Face hub."""
    name: str = Field("", pattern=r"^[A-Za-z0-9._-]*$")
    """The source's name in counts, mixtures and manifests; by default its kind."""
    path: str = ""
    """A file, directory or glob, here or at any address that fsspec knows, such as s3://bucket/web/*.jsonl.zst; for
    `hub` the dataset's name, such as HuggingFaceFW/fineweb-edu."""
    separator: str = ""
    r"""text: a regular expression at whose matches a file falls into documents; empty makes one document of each file.
    Paragraphs are \n\s*\n, TinyStories <\|endoftext\|>, WikiText articles (?m)(?<=^ \n)(?= = [^=\n]+ = \n \n)."""
    encoding: str = "utf-8"
    """text: the files' encoding, as Python names it, such as iso-8859-1; never guessed."""
    begins_after: str = ""
    r"""text: a regular expression; what stands before the end of its first match in a file, and the match, is left
    out. Project Gutenberg's header ends with (?m)^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG.*$."""
    ends_before: str = ""
    r"""text: a regular expression; its first match after that, and what follows, is left out. Project Gutenberg's
    licence follows (?m)^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG."""
    subset: str = ""
    """Configuration of a hub dataset, such as sample-10BT."""
    split: str = "train"
    """Split of a hub dataset."""
    revision: str = ""
    """Commit of a hub dataset; empty takes the newest, which makes the corpus irreproducible."""
    text_columns: tuple[str, ...] = Field(("text",), min_length=1)
    """The columns or fields that hold the text (jsonl, parquet, hub); several, such as [instruction, context,
    response], are put together with an empty line between those that are not empty."""
    conversations: Literal[
        "", "openai", "sharegpt", "alpaca", "prompt_completion", "pairs", "transcripts", "labelled"
    ] = ""
    """The layout of rows that hold conversations (jsonl, parquet, hub), of which a model then learns the assistant's
    words alone: a list of {role, content}, a list of {from, value}, or columns of which the last is the answer;
    text_columns names the columns where they are called something else. Preferences: `pairs` are prompt, chosen and
    rejected (texts or lists of {role, content}), `transcripts` two whole conversations (as lists, or as text with
    Human: and Assistant:, as in hh-rlhf), `labelled` prompt, completion and whether it is wanted."""
    id_column: str = ""
    """The column that identifies a document; empty takes its row in its file, or the byte at which its line begins."""
    split_column: str = ""
    """The column whose value decides, in place of the id, on which side of the split a document falls: texts about one
    thing, in whatever sources, are then held out together."""
    metadata_columns: tuple[str, ...] = ()
    """Further columns that are kept with a document, such as url, or generator and filter of synthetic text."""
    licence: str = ""
    """SPDX identifier, or `unknown` if nobody can tell; required of every source that is read from somewhere."""
    origin: str = ""
    """Where the text was taken from, for the record; by default the path."""
    planted: CanariesConfig = CanariesConfig()
    """canaries: which secrets, and how often each."""
    synthetic: SyntheticConfig | None = None
    """What wrote the text, if no person did; such text is always checked against the evaluations."""
    max_documents: int = Field(0, ge=0)
    """Take the first so many documents that cleaning leaves (stdlib: an even spread of as many); 0 takes all."""

    @property
    def label(self) -> str:
        """The name under which the source is counted."""
        return self.name or self.kind

    @property
    def preferences(self) -> Preferences:
        """Whether its documents are pairs of answers, answers with a label, or neither."""
        return PREFERENCES.get(self.conversations, "")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read for the text."""
        renamed = self.text_columns != type(self).model_fields["text_columns"].default
        return self.text_columns if renamed or not self.conversations else CONVERSATION_COLUMNS[self.conversations]

    @property
    def licence_or_default(self) -> str:
        """The licence to record; Python's own for its standard library, none needed for canaries."""
        return self.licence or KNOWN_LICENCES[self.kind]

    @property
    def origin_or_default(self) -> str:
        """Where the text comes from, in words."""
        made = {"stdlib": f"standard library of Python {platform.python_version()}", "canaries": "made by this program"}
        return self.origin or self.path or made[self.kind]

    @model_validator(mode="after")
    def _settings_apply(self) -> SourceConfig:
        allowed = KEYS_OF_KIND[self.kind]
        for key in sorted(frozenset().union(*KEYS_OF_KIND.values()) - allowed):
            if getattr(self, key) != type(self).model_fields[key].default:
                known = ", ".join(sorted(allowed)) or "none"
                raise ValueError(f"{key} has no effect on kind {self.kind} (which has {known}); remove it")
        if "path" in allowed and not self.path:
            raise ValueError(f"kind {self.kind} needs a path: a file, directory or glob, or the name of a hub dataset")
        if self.kind not in KNOWN_LICENCES and not self.licence:
            raise ValueError(
                f"source {self.label} has no licence; give its SPDX identifier, such as licence: CC-BY-SA-4.0, or "
                "licence: unknown if nobody can tell"
            )
        if self.conversations in ("openai", "sharegpt") and len(self.columns) != 1:
            raise ValueError(f"conversations ({self.conversations}) lie in one column; text_columns names several")
        if self.preferences and len(self.columns) != len(CONVERSATION_COLUMNS[self.conversations]):
            wanted = ", ".join(CONVERSATION_COLUMNS[self.conversations])
            raise ValueError(f"conversations ({self.conversations}) need text_columns in the place of {wanted}")
        if self.conversations in ("alpaca", "prompt_completion") and len(self.columns) < 2:
            raise ValueError(
                f"conversations ({self.conversations}) need a question and an answer; text_columns names one column"
            )
        for key in ("separator", "begins_after", "ends_before"):
            try:
                re.compile(getattr(self, key).encode())
            except re.error as error:
                raise ValueError(
                    f"{key} {getattr(self, key)!r} is not a regular expression ({error}); correct it"
                ) from None
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {self.encoding!r} is none that Python knows; give one such as iso-8859-1, cp1252 or utf-16"
            ) from None
        return self


class CorpusConfig(Config):
    """Text to documents."""

    sources: tuple[SourceConfig, ...] = Field((SourceConfig(kind="stdlib"),), min_length=1)
    """The sources, read in order."""
    validation_fraction: float = Field(0.05, gt=0, lt=0.5)
    """Share of documents held out, chosen by a hash of each document's id."""
    validation_fold: int = Field(0, ge=0)
    """Which part of that size is held out: a run with each in turn is a cross-validation."""
    on_bad_text: Literal["refuse", "skip"] = "refuse"
    """What to do with text that cannot be used (not UTF-8, not JSON, without its column, too long, a damaged file, an
    id that stands twice): stop and name it, or leave it out and count it (an id that stands twice gets a number)."""
    on_control_text: Literal["keep", "skip", "refuse"] = "keep"
    """What to do with a document that imitates control tokens, such as <|user|>: keep it, since the tokenizer reads
    such text as plain text, leave it out, or stop and name it; counted always."""
    max_document_bytes: int = Field(64_000_000, ge=1_000)
    """A longer document counts as text that cannot be used: it would be held in memory whole, several times."""
    unit_bytes: int = Field(64_000_000, ge=1_000)
    """About how much text is made at a time: what a kill loses at most, and what parts and workers take in turn.
    Documents, their ids and their order do not depend on it."""
    steps: tuple[StepConfig, ...] = (UnicodeStep(),)
    """What cleans each document, in order; `corpus=web` takes the list for web pages, [] leaves texts as they are."""
    duplicates: DuplicatesConfig = DuplicatesConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    part: str = neutral("", pattern=r"^([0-9]+/[1-9][0-9]*)?$")
    """`2/8` makes every eighth unit, from the third on, and stops; without, what is still missing is made and all
    units are put together. The result does not depend on it."""
    workers: int = neutral(1, ge=1)
    """Processes that make units."""
    executor: Literal["processes", "ray"] = neutral("processes")
    """Where the workers run: here, or on a Ray cluster that sees the same folders (`pip install '.[ray]'`)."""
    keep_units: bool = neutral(True)
    """Keep finished units beside the corpus, so that after a change only what it touches is made again; they take as
    much disk as the corpus."""

    @property
    def preferences(self) -> Preferences:
        """What all its sources hold."""
        return self.sources[0].preferences

    @model_validator(mode="after")
    def _the_fold_is_there(self) -> CorpusConfig:
        folds = int(1 / self.validation_fraction + 1e-9)
        if self.validation_fold >= folds:
            raise ValueError(
                f"validation_fold ({self.validation_fold}) counts from 0, and of validation_fraction "
                f"({self.validation_fraction:g}) there are {folds} whole folds; set it below {folds}"
            )
        return self

    @model_validator(mode="after")
    def _preferences_stay_among_themselves(self) -> CorpusConfig:
        kinds = {source.preferences or "neither" for source in self.sources}
        if len(kinds) > 1:
            raise ValueError(
                f"sources: {' and '.join(sorted(kinds))} cannot lie in the same rows (pairs of answers, answers with a "
                "label, other text); make a corpus of each kind in a recipe of its own"
            )
        return self

    @model_validator(mode="after")
    def _conversations_stay_whole(self) -> CorpusConfig:
        talk = next((source.label for source in self.sources if source.conversations), "")
        cutting = [f"steps: {step.step}" for step in self.steps if step.step in PARTS_OF_TEXTS]
        cutting += ["decontamination.action=cut"] if self.decontamination.action == "cut" else []
        cutting += ["duplicates.paragraphs=true"] if self.duplicates.paragraphs else []
        if talk and cutting:
            raise ValueError(
                f"{talk} holds conversations, and {', '.join(cutting)} would cut pieces out of what is said; leave "
                "that out, or prepare conversations in a recipe of their own"
            )
        return self
