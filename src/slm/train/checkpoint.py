"""Checkpoints: everything that shapes the next step, as tensors and JSON, published atomically.

A checkpoint is an artifact of kind `train` in `<run>/train/step-00000100`: `model_config.json` and sharded
`model-*.safetensors` (what `slm.model.load` reads), `optimizer.safetensors`, `generator.safetensors` and
`state.json` (step, tokens, cursor). No pickle. `latest` names the newest and is written after it is durable;
only then are older ones deleted. Every file is hashed when a run resumes; a damaged checkpoint is renamed
`*.damaged`, which is said, and the one before it is taken. The one that the guard would rewind to is kept
as long as the run goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from slm.core.artifact import (
    LATEST,
    MANIFEST,
    Artifact,
    Spec,
    Verify,
    create,
    differences,
    open_artifact,
    remove_abandoned,
    write_atomically,
)
from slm.core.console import say
from slm.core.errors import DamagedError, UserError
from slm.model.load import load_weights, save_model
from slm.model.transformer import Transformer
from slm.shards.loader import Loader
from slm.train.guard import Guard
from slm.train.optim import Optimizer

OPTIMIZER, GENERATOR, STATE = "optimizer.safetensors", "generator.safetensors", "state.json"
WEIGHTS = "weights.safetensors"
"""The weights that training goes on from, where the published model is their average."""


@dataclass(slots=True)
class TrainState:
    """What a step changes."""

    model: Transformer
    optimizer: Optimizer
    loader: Loader
    guard: Guard
    average: Transformer | None = None
    """Moving average of the weights, if the recipe wants one."""
    step: int = 0
    tokens: int = 0

    @property
    def published(self) -> Transformer:
        """What is evaluated and what later stages get: the average where there is one."""
        return self.model if self.average is None else self.average


def save(folder: Path, spec: Spec, state: TrainState, keep_last: int, **counts: Any) -> Artifact:
    """Publish `state` as `folder/step-N`, point `latest` at it, delete what is older than `keep_last`."""
    path = folder / f"step-{state.step:08d}"
    with create(path, spec) as draft:
        save_model(state.published, draft.path)
        if state.average is not None:
            save_file({k: v.contiguous() for k, v in state.model.state_dict().items()}, draft.path / WEIGHTS)
        save_file({k: v.contiguous() for k, v in state.optimizer.state_tensors().items()}, draft.path / OPTIMIZER)
        save_file({"torch": torch.get_rng_state()}, draft.path / GENERATOR)
        progress = {"step": state.step, "tokens": state.tokens, "loader": state.loader.state_dict()}
        progress["guard"] = state.guard.state_dict()
        (draft.path / STATE).write_text(json.dumps(progress, indent=1), encoding="utf-8")
        draft.counts.update(step=state.step, tokens=state.tokens, **counts)
    artifact = open_artifact(path, "train")
    write_atomically(folder / LATEST, path.name + "\n")
    target = rewind_target(folder)
    for old in step_folders(folder)[keep_last:]:
        if target is None or old != target.path or counts.get("finished"):
            shutil.rmtree(old)
    return artifact


def restore(checkpoint: Artifact, state: TrainState) -> None:
    """Put a checkpoint back into `state`, which was built from the same recipe."""
    load_weights(state.published, checkpoint.path)
    if state.average is not None:
        state.model.load_state_dict(load_file(checkpoint.file(WEIGHTS)))
    state.optimizer.load_state_tensors(load_file(checkpoint.file(OPTIMIZER)))
    torch.set_rng_state(load_file(checkpoint.file(GENERATOR))["torch"])
    progress = json.loads(checkpoint.file(STATE).read_text(encoding="utf-8"))
    state.loader.load_state_dict(progress["loader"])
    state.guard.load_state_dict(progress["guard"])
    state.step, state.tokens = progress["step"], progress["tokens"]


def newest_sound(folder: Path, spec: Spec, *, redo: bool) -> Artifact | None:
    """The newest checkpoint in `folder` that verifies, or None to start from nothing.

    Checkpoints of another recipe are refused with the differences, or deleted if `redo`.
    """
    for path in step_folders(folder):
        remove_abandoned(path)
        try:
            found = open_artifact(path, "train", verify="full")
        except DamagedError as error:
            aside = _set_aside(path)
            say(f"train: {error}; set aside as {aside.name}, trying the checkpoint before it")
            continue
        if found.key == spec.key:
            return found
        if redo:
            shutil.rmtree(folder)
            return None
        changes = differences(found.manifest["ingredients"], spec.ingredients())
        raise UserError(
            f"{folder} holds checkpoints of another recipe or other data ({'; '.join(changes)}); "
            "choose another run=NAME to keep them, or add redo=true to delete them and start again"
        )
    return None


def rewind_target(folder: Path, *, verify: Verify = "small") -> Artifact | None:
    """The newest checkpoint that a rewind may go back to: its count `rewind_target` says so, and it verifies.

    A run that was stopped has checkpoints that the unbroken one lacks; those must not count.
    """
    for path in step_folders(folder):
        try:
            found = open_artifact(path, "train", verify=verify)
        except DamagedError:
            continue
        if found.counts.get("rewind_target"):
            return found
    return None


def step_folders(folder: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit() and (path / MANIFEST).exists()]
    return sorted(found, reverse=True)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(aside)
