"""What the reference of a preference loss says of each answer: computed once, kept on disk, addressed by row.

In: shards of preferences, and the checkpoint that the model is compared with, mostly the one that training begins with.
Out: the artifact `reference` beside the run's checkpoints, with the summed log-probability of each answer in each row
of both splits, float32, [rows, answers in the fullest row]; the loader's batches know their rows, so the same cursor
addresses both. It is made from the fingerprints of reference and shards, the arithmetic and the loss, and is made anew
where one of them is another. It costs a forward over both splits (two for KTO, which also asks for mismatched answers)
before the first step, of which each process takes every n-th batch; batches are the same for any number of processes,
and so is what is kept. The reference itself then leaves the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from slm.core.artifact import Draft, Spec, find, make, open_artifact
from slm.core.batch import Batch
from slm.core.config import Config
from slm.core.console import Progress
from slm.core.distributed import World
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.objective.config import COMPARING
from slm.objective.loss import Objective
from slm.objective.mismatched import mismatched
from slm.objective.preference import Preference, Reference, answer_sums
from slm.recipe import Recipe
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader, Split
from slm.train.precision import Precision, autocast
from slm.train.working_copy import working_copy

SPLITS: tuple[Split, Split] = ("train", "validation")
FILE = "log_probs.safetensors"
BATCH_TOKENS = 8_192
"""Positions of one forward."""


class ReferenceConfig(Config):
    """What the log-probabilities depend on beside the reference and the shards."""

    precision: Precision
    mismatched: bool
    """Whether answers to other prompts are asked for, too."""


def with_reference(
    objective: Objective, recipe: Recipe, spec: Spec, device: str, precision: Precision, world: World
) -> Objective:
    """The objective, which knows what the reference says where it compares with one."""
    if not isinstance(objective, Preference):
        return objective
    shards, loss = spec.parents["shards"], recipe.objective.preference.loss
    objective.paired = shards.counts["preferences"] == "pairs"
    if loss in COMPARING:
        folder = recipe.folder("train").with_name("reference")
        config = ReferenceConfig(precision=precision, mismatched=loss == "kto")
        _make(folder, spec, config, device, world)
        tensors = load_file(open_artifact(folder, "reference").file(FILE))
        train, held_out = (Reference(tensors[split], tensors.get(f"{split}_mismatched")) for split in SPLITS)
        objective.references = (train, held_out)
    return objective


def _make(folder: Path, spec: Spec, config: ReferenceConfig, device: str, world: World) -> None:
    named = spec.parents.get("reference")
    parents = {"reference": named or spec.parents["initial"], "shards": spec.parents["shards"]}
    variant = "" if named else str(spec.inputs.get("initial_variant", ""))
    kept = Spec("reference", config, parents, {"variant": variant})
    tensors: dict[str, Tensor] = {}

    def build(draft: Draft) -> None:
        save_file(tensors, draft.path / FILE)

    def mine() -> dict[str, list[Tensor]]:
        loaded = load_model(parents["reference"].path / variant).to(device).eval()
        model = working_copy(loaded, config.precision).model
        found = dict[str, list[Tensor]]()
        for split in SPLITS:
            reader = ShardReader(parents["shards"], split)
            found[split] = ask(model, reader, device, config.precision, world)
            if config.mismatched:
                found[f"{split}_mismatched"] = ask(model, reader, device, config.precision, world, mismatched)
        return found

    if world.lead(lambda: find(folder, kept, redo=True) is None):
        parts = world.together(mine)
        tensors = {name: joined([part[name] for part in parts]) for name in parts[0]}
    world.lead(lambda: make(folder, kept, build, redo=True).fingerprint)


@torch.no_grad()
def ask(
    model: Transformer,
    reader: ShardReader,
    device: str,
    precision: Precision,
    world: World,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> list[Tensor]:
    """The log-probability of each answer in each row of this process's batches, [rows, answers in the fullest row]."""
    parts = list[Tensor]()
    batches = list(_batches(reader))[world.rank :: world.size]
    with Progress("train: asking the reference", sum(map(len, batches)), "rows") as progress:
        for rows in batches:
            batch = change(read_batch(reader, rows)).to(device)
            width = max(1, int(batch.documents_BT.max()) + 1)
            with autocast(device, precision):
                parts.append(answer_sums(model, batch, width).log_probs_BP.cpu())
            progress.advance(len(rows))
    return parts


def joined(parts: Sequence[Sequence[Tensor]]) -> Tensor:
    """What the processes found, by rank, in the order of the rows: [rows, answers in the fullest row]."""
    found = [part for some in itertools.zip_longest(*parts) for part in some if part is not None]
    most = max(part.shape[1] for part in found)
    return torch.cat([pad(part, (0, most - part.shape[1])) for part in found])


def _batches(reader: ShardReader) -> Iterator[range]:
    step = max(1, BATCH_TOKENS // reader.seq_len)
    return (range(first, min(first + step, reader.num_rows)) for first in range(0, reader.num_rows, step))
