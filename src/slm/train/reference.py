"""What the reference of a preference loss says of each answer: computed once, kept on disk, addressed by row.

In: shards of preferences, and the checkpoint that the model is compared with, mostly the one that training begins with.
Out: the artifact `reference` beside the run's checkpoints, with the summed log-probability of each answer in each row
of both splits, float32, [rows, answers in the fullest row]; the loader's batches know their rows, so the same cursor
addresses both. It is made from the fingerprints of reference and shards, the arithmetic and the loss, and is made anew
where one of them is another. It costs a forward over both splits (two for KTO, which also asks for mismatched answers)
by one process, before the first step. The reference itself then leaves the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad

from slm.core.artifact import Artifact, Draft, Spec, make, open_artifact
from slm.core.batch import Batch
from slm.core.config import Config
from slm.core.console import Progress
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.objective.config import COMPARING
from slm.objective.loss import Objective
from slm.objective.mismatched import mismatched
from slm.objective.preference import Preference, Reference, answer_sums
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader, Split
from slm.train.precision import Precision, autocast
from slm.train.working_copy import working_copy

if TYPE_CHECKING:
    from slm.core.distributed import World
    from slm.recipe import Recipe

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
        world.lead(lambda: _made(folder, spec, config, device).fingerprint)
        tensors = load_file(open_artifact(folder, "reference").file(FILE))
        train, held_out = (Reference(tensors[split], tensors.get(f"{split}_mismatched")) for split in SPLITS)
        objective.references = (train, held_out)
    return objective


def _made(folder: Path, spec: Spec, config: ReferenceConfig, device: str) -> Artifact:
    named = spec.parents.get("reference")
    parents = {"reference": named or spec.parents["initial"], "shards": spec.parents["shards"]}
    variant = "" if named else str(spec.inputs.get("initial_variant", ""))

    def build(draft: Draft) -> None:
        loaded = load_model(parents["reference"].path / variant).to(device).eval()
        model = working_copy(loaded, config.precision).model
        tensors: dict[str, Tensor] = {}
        for split in SPLITS:
            tensors[split] = ask(model, ShardReader(parents["shards"], split), device, config.precision)
            if config.mismatched:
                reader = ShardReader(parents["shards"], split)
                tensors[f"{split}_mismatched"] = ask(model, reader, device, config.precision, mismatched)
        save_file(tensors, draft.path / FILE)

    return make(folder, Spec("reference", config, parents, {"variant": variant}), build, redo=True)


@torch.no_grad()
def ask(
    model: Transformer,
    reader: ShardReader,
    device: str,
    precision: Precision,
    change: Callable[[Batch], Batch] = lambda batch: batch,
) -> Tensor:
    """The log-probability of each answer in each row, [rows, answers in the fullest row], on the CPU."""
    parts, step = [], max(1, BATCH_TOKENS // reader.seq_len)
    with Progress("train: asking the reference", reader.num_rows, "rows") as progress:
        for first in range(0, reader.num_rows, step):
            batch = change(read_batch(reader, range(first, min(first + step, reader.num_rows)))).to(device)
            width = max(1, int(batch.documents_BT.max()) + 1)
            with autocast(device, precision):
                parts.append(answer_sums(model, batch, width).log_probs_BP.cpu())
            progress.advance(len(parts[-1]))
    most = max(part.shape[1] for part in parts)
    return torch.cat([pad(part, (0, most - part.shape[1])) for part in parts])
