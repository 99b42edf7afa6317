"""Files of a store: a teacher is asked about consecutive rows, and what is kept of its answers is written.

In: rows of the train split. Out: one file (see `slm.shards.store`). Logits are made for a chunk of positions at a time,
so memory is that of the teacher, of a batch of hidden states, and of the file's columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slm.core.allocator import keep_freed_memory
from slm.core.artifact import Artifact
from slm.core.batch import IGNORED
from slm.core.errors import UserError
from slm.distill.keep import draws, likeliest, uniforms
from slm.model.load import load_model
from slm.model.spread import load_spread
from slm.recipe import Recipe
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader
from slm.shards.store import write_rows
from slm.train.precision import autocast

CHUNK_LOGITS = 1 << 22
"""Logits that are held at one time: 16 MB in float32."""


class Writer:
    """A teacher with the rows that it is asked about."""

    def __init__(self, recipe: Recipe, parents: Mapping[str, Artifact], facts: Mapping[str, Any]) -> None:
        config = recipe.distill
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("distill.device is cuda, but torch sees no GPU here; set distill.device=cpu or auto")
        if config.threads:
            torch.set_num_threads(config.threads)
        gpu = config.device != "cpu" and torch.cuda.is_available()
        if not gpu:
            keep_freed_memory()
        self._config, self._facts = config, dict(facts)
        self._reader = ShardReader(parents["shards"], "train")
        where, memory = parents["teacher"].path, recipe.objective.distill.teacher_memory_bytes
        whole = "cuda" if gpu else "cpu"
        self._teacher = load_spread(where, memory) if memory else load_model(where).to(whole).eval()
        self._device = self._teacher.head_weight.device.type

    def write(self, rows: range, path: Path, told: Callable[[int], None]) -> dict[str, Any]:
        """Write the file of these rows; returns the number of targets and the sum of their entropy or kept mass."""
        config, seq_len = self._config, self._reader.seq_len
        sampled = config.method == "samples"
        narrow = np.uint16 if self._reader.vocab_size <= 1 << 16 else np.uint32
        ids_NTK = np.zeros((len(rows), seq_len, config.kept + sampled), narrow)
        values_NTF = np.zeros((len(rows), seq_len, 2 if sampled else config.kept), np.float16)
        targets, figure = 0, 0.0
        step = max(1, config.batch_tokens // seq_len)
        for begin in range(0, len(rows), step):
            mine = slice(begin, begin + step)
            found = self._ask(rows[mine], ids_NTK[mine], values_NTF[mine])
            targets, figure = targets + found[0], figure + found[1]
            told(len(rows[mine]) * seq_len)
        write_rows(path, ids_NTK, values_NTF, self._facts)
        return {"targets": targets, "figure": figure}

    @torch.inference_mode()
    def _ask(self, rows: range, ids_BTK: np.ndarray[Any, Any], values_BTF: np.ndarray[Any, Any]) -> tuple[int, float]:
        """Fill in what is kept of the distributions of some rows; what a target says counts, the rest stays zero."""
        batch = read_batch(self._reader, rows).to(self._device)
        asked_N = (batch.targets_BT.flatten() != IGNORED).nonzero()[:, 0]
        seq_len, figure = self._reader.seq_len, 0.0
        uniforms_N = np.concatenate([uniforms(self._facts["seed"], row, seq_len) for row in rows])
        ids_NK, values_NF = (array.reshape(-1, array.shape[-1]) for array in (ids_BTK, values_BTF))
        with autocast(self._device, self._config.precision):
            hidden_BTD = self._teacher.hidden(
                batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT
            )
            for rows_C in torch.split(asked_N, max(1, CHUNK_LOGITS // self._reader.vocab_size)):
                logits_CV = self._teacher.project(hidden_BTD.flatten(0, 1)[rows_C]).float()
                logits_CV /= self._facts["temperature"]
                places_C = rows_C.cpu().numpy()
                if self._config.method == "samples":
                    points_C = torch.from_numpy(uniforms_N[places_C]).to(self._device)
                    ids_CK, values_CF = draws(logits_CV, points_C, self._config.kept)
                    figure += float(values_CF[:, 0].double().sum())
                else:
                    ids_CK, values_CF = likeliest(logits_CV, self._config.kept)
                    figure += float((1 - values_CF[:, 0].double()).sum())
                ids_NK[places_C], values_NF[places_C] = ids_CK.cpu().numpy(), values_CF.cpu().numpy()
        return len(asked_N), figure
