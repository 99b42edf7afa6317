"""Golden prompts on the files that leave: each opened by the engine that people will open it with.

In: a folder with exported files, the tokenizer's folder, a table of prompts. Out: the outcome of each prompt, judged
as the evaluation judges the checkpoint. The Hugging Face folder is opened by transformers, a GGUF file by llama.cpp;
ids are those of the file's own tokenizer. llama.cpp answers one request a position, so a table of 100 prompts of 20
tokens takes it about 5 s at a vocabulary of 4,096.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from slm.evaluate.golden import GoldenPrompt, Outcome, first_of_continuation, judge
from slm.export import EXPORTERS
from slm.export.config import Format
from slm.export.parity import log_softmax
from slm.export.stage import ENGINE_PACKAGES
from slm.export.subject import TURN_END, Engine, Exporter
from slm.release.files import exported_path
from slm.tokenizer.tokenizer import Tokenizer


def missing_engine(name: Format) -> str:
    """A package that opening the format needs and that is not installed; empty if all are there."""
    needed = ENGINE_PACKAGES[name.partition("_")[0]]
    return next((package for package in needed if importlib.util.find_spec(package) is None), "")


def check_file(
    folder: Path, name: Format, tokenizer: Tokenizer, prompts: Sequence[GoldenPrompt], threads: int
) -> list[Outcome]:
    """The outcome of each prompt on one exported format in `folder`."""
    exporter = cast(Exporter, importlib.import_module(EXPORTERS[name]))
    end_ids = frozenset({tokenizer.eos_id, tokenizer.gguf_vocabulary().tokens.index(TURN_END)})
    longest = max(len(tokenizer.encode(item.prompt + item.continuation)) + item.max_tokens for item in prompts) + 2
    with exporter.engine(
        exported_path(folder, name), end_ids=end_ids, context_tokens=longest, threads=threads
    ) as engine:
        return [judge(item, _said(engine, item, tokenizer, end_ids)) for item in prompts]


def _said(engine: Engine, item: GoldenPrompt, tokenizer: Tokenizer, end_ids: frozenset[int]) -> str | float:
    before = engine.tokenize(item.prompt)
    if item.pattern:
        return tokenizer.decode([token for token in engine.greedy(before, item.max_tokens) if token not in end_ids])
    ids = engine.tokenize(item.prompt + item.continuation)
    first = first_of_continuation(before, ids)
    scores_PV = engine.scores(ids, range(first - 1, len(ids) - 1))
    logp_PV = log_softmax(scores_PV)
    return float(logp_PV[np.arange(len(logp_PV)), ids[first:]].mean())
