"""Checkpoints: everything that shapes the next step, as tensors and JSON, published atomically.

A checkpoint is an artifact of kind `train` in `<run>/train/step-00000100`: `model_config.json` and sharded
`model-*.safetensors` (what `slm.model.load` reads), `optimizer.safetensors` (or several and an index),
`generator.safetensors` and `state.json` (step, tokens, cursor, guard, losses of the sources). No pickle. `latest`
names the newest and is written after it is durable; only then are older ones deleted. Every file is hashed when a
run resumes; a damaged checkpoint is renamed `*.damaged`, which is said, and the one before it is taken. The one that
the guard would rewind to is kept as long as the run goes on.

Saving has two halves. `collect` looks at the live state, and in it processes exchange tensors. `publish` writes
what that gives, with connections of its own between processes, and may do so while training goes on
(`slm.train.saver`); it reads back and hashes what it wrote (0.5 s per GB), and only then does `prune` delete older
ones. Files hold whole tensors whatever the strategy, spread over the processes (`tensor_files`), so that memory
for the copy, writing and hashing divide by them; any number of processes reads them again, each only its part.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import save_file
from torch import Tensor

from slm.core.artifact import (
    LATEST,
    MANIFEST,
    Artifact,
    Spec,
    Verify,
    changes,
    create,
    open_artifact,
    remove_abandoned,
    seal_file,
    verify_files,
    write_atomically,
)
from slm.core.console import say
from slm.core.distributed import SOLO, World
from slm.core.errors import DamagedError, UserError, is_disk_full
from slm.model.load import CONFIG, STEM, load_tensors, load_weights, read_safetensors
from slm.model.lora import adapter_state, merged_state
from slm.model.transformer import Transformer
from slm.shards.loader import Loader
from slm.train.config import CheckpointConfig
from slm.train.guard import Guard
from slm.train.optim import Optimizer
from slm.train.parallel import Parallel, part_of, take_over
from slm.train.sources import SourceSampler
from slm.train.tensor_files import files_of, index_text, owners

GENERATOR, STATE = "generator.safetensors", "state.json"
MODEL, OPTIMIZER = STEM, "optimizer"
WEIGHTS = "weights"
"""The weights that training goes on from, where the published model is their average."""
ADAPTER = "adapter"
"""The adapter that is trained, where the published model has it merged into its matrices."""


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
    parallel: Parallel = field(default_factory=Parallel)
    sampler: SourceSampler | None = None
    """What shares of the sources follow from, if the recipe wants them to change."""
    saving: World = SOLO
    """The same processes by connections of their own, for `publish`."""

    @property
    def published(self) -> Transformer:
        """What is evaluated and what later stages get: the average where there is one."""
        return self.model if self.average is None else self.average


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this process writes of the state after a step, on its CPU."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """Whole tensors by name, by the file that they go into."""
    texts: dict[str, str]
    """The content of the other files, by name."""


def collect(state: TrainState) -> Snapshot:
    """Everything that shapes the next step, each process its share of it; all must call it."""
    parallel = state.parallel
    moments = dict(sorted(state.optimizer.state_tensors().items()))  # a resumed optimizer lists them in another order
    groups = {MODEL: merged_state(state.published), OPTIMIZER: moments}
    if state.average is not None:
        groups[WEIGHTS] = state.model.state_dict()
    if adapter := adapter_state(state.model):
        groups[ADAPTER] = adapter
    sizes = {stem: {name: t.numel() * t.element_size() for name, t in group.items()} for stem, group in groups.items()}
    owner = owners({(stem, name): n for stem, group in sizes.items() for name, n in group.items()}, parallel.world.size)
    tensors: dict[str, dict[str, Tensor]] = {}
    texts: dict[str, str] = {}
    for stem, group in groups.items():
        share = {name: owner[stem, name] for name in group}
        files, mine = files_of(stem, sizes[stem], share), parallel.gather(group, share)
        for file in files:
            if file.owner == parallel.world.rank:
                tensors[file.name] = {name: mine[name] for name in file.tensors}
        if stem == MODEL or len(files) > 1:
            texts[f"{stem}.safetensors.index.json"] = index_text(files, sizes[stem])
    generators = parallel.gather_equal(torch.get_rng_state())
    progress = {"step": state.step, "tokens": state.tokens, "loader": state.loader.state_dict()}
    progress["guard"] = state.guard.state_dict()
    if state.sampler is not None:
        progress["sampler"] = state.sampler.state_dict()
    if not parallel.world.leader:
        return Snapshot(state.step, tensors, {})
    tensors[GENERATOR] = {_generator(rank): found for rank, found in enumerate(generators)}
    texts |= {CONFIG: json.dumps(state.model.config.resolved(), indent=1), STATE: json.dumps(progress, indent=1)}
    return Snapshot(state.step, tensors, texts)


def publish(folder: Path, spec: Spec, snapshot: Snapshot, counts: dict[str, Any], world: World = SOLO) -> Artifact:
    """Write what all processes collected durably as `folder/step-N` and read it back, then point `latest` at it."""
    path = folder / step_name(snapshot.step)
    with ExitStack() as stack:
        draft = world.lead(lambda: stack.enter_context(create(path, spec)))
        for sealed in world.together(lambda: _write(snapshot, draft.path)):
            draft.sealed.update(sealed)
        draft.counts.update(counts)
        world.lead(stack.close)  # the manifest and the name: if that fails, all hear of it
    artifact = world.lead(lambda: open_artifact(path, "train"))
    world.together(lambda: verify_files(artifact, (*snapshot.tensors, *snapshot.texts)))
    world.lead(lambda: write_atomically(folder / LATEST, path.name + "\n"))
    return artifact


def _write(snapshot: Snapshot, folder: Path) -> dict[str, dict[str, Any]]:
    """Write what this process has to, flushed; returns the manifest's records of it."""
    try:
        for name, tensors in snapshot.tensors.items():
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(whole, folder / name, metadata={"format": "pt"})
        for name, text in snapshot.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return {name: seal_file(folder / name) for name in (*snapshot.tensors, *snapshot.texts)}
    except Exception as error:
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, f"while writing {folder.name}", str(folder)) from error
        raise


def prune(folder: Path, settings: CheckpointConfig, sound: Artifact | None = None, spare: Path | None = None) -> None:
    """Delete the checkpoints that `settings` do not keep, if one that stays verifies, as `sound` is known to.

    `spare` stays, whatever the settings say, and so does what a run that is not finished may rewind to.
    """
    paths = {path.name: path for path in step_folders(folder)}
    stay = kept(list(paths), settings) | ({spare.name} if spare else set())
    if set(paths) <= stay:
        return
    sound = sound or next((found for name in paths if name in stay and (found := _verified(paths[name]))), None)
    if sound is None:
        say(f"train: no checkpoint that would stay in {folder} verifies, so none is deleted")
        return
    if not sound.counts.get("finished") and (target := rewind_target(folder)):
        stay.add(target.path.name)
    for name in paths:
        if name not in stay:
            remove_step(paths[name])


def remove_step(path: Path) -> None:
    """Delete a checkpoint, its manifest first: what a kill leaves of it is no checkpoint any more."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def remove_leftovers(folder: Path) -> None:
    """Delete what saves and deletions that were killed have left: drafts, and folders without a manifest."""
    for leftover in list(folder.glob("step-*")):
        name, dot, _ = leftover.name.partition(".")
        if dot:
            remove_abandoned(folder / name)
        elif name[5:].isdigit() and not (leftover / MANIFEST).exists():
            shutil.rmtree(leftover, ignore_errors=True)


def make_newest(folder: Path, checkpoint: Artifact) -> None:
    """Point `latest` at a checkpoint and delete those that a run which has come to it did not come through."""
    write_atomically(folder / LATEST, checkpoint.path.name + "\n")
    for path in step_folders(folder):
        try:
            astray = not leads_to(open_artifact(path, "train").counts, checkpoint.counts)
        except DamagedError:  # for the next start to set aside, unless it would be taken for the newest then
            astray = path.name > checkpoint.path.name
        if astray:
            remove_step(path)


def age(counts: Mapping[str, Any]) -> tuple[int, int]:
    """Orders checkpoints of one run by when it came to them: steps begin again at a lower number after a rewind."""
    return len(counts.get("rewinds", ())), int(counts["step"])


def leads_to(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Whether a run that has come to a checkpoint came through another, by their counts, and did not rewind past it."""
    since = later.get("rewinds", ())[len(earlier.get("rewinds", ())) :]
    return age(earlier) <= age(later) and all(earlier["step"] <= step for step in since)


def kept(names: Sequence[str], settings: CheckpointConfig) -> set[str]:
    """Which of the checkpoints, given newest first, stay: the last few, and those at multiples of many steps."""
    every = settings.keep_every_steps
    return {*names[: settings.keep_last], *(name for name in names if every and int(name[5:]) % every == 0)}


def restore(checkpoint: Artifact, state: TrainState) -> None:
    """Put a checkpoint back into `state`, which was built from the same recipe; each process reads its part."""
    published, path, adapter = state.published.state_dict(), checkpoint.path, adapter_state(state.model)
    if adapter:  # what it stands beside is the initial model, which does not change
        with torch.no_grad():
            for name, tensor in load_tensors(path, part_of(adapter.get), ADAPTER).items():
                take_over(adapter[name], tensor)
    else:
        load_weights(state.published, path, part_of(published.get))
    if state.average is not None:
        load_weights(state.model, path, part_of(state.model.state_dict().get), WEIGHTS)
    if any(name.startswith(OPTIMIZER) for name in checkpoint.manifest["files"]):  # none before the first step is taken
        state.optimizer.load_state_tensors(load_tensors(path, part_of(state.optimizer.parameter), OPTIMIZER))
    generators, mine = read_safetensors(checkpoint.file(GENERATOR)), _generator(state.parallel.world.rank)
    if mine in generators:  # a process that was not there before keeps the stream that it starts with
        torch.set_rng_state(generators[mine])
    progress = json.loads(checkpoint.file(STATE).read_text(encoding="utf-8"))
    state.loader.load_state_dict(progress["loader"])
    state.guard.load_state_dict(progress["guard"])
    if state.sampler is not None:
        state.sampler.load_state_dict(progress["sampler"])
    state.step, state.tokens = progress["step"], progress["tokens"]


def newest_sound(folder: Path, spec: Spec, *, redo: bool) -> Artifact | None:
    """The newest checkpoint in `folder` that verifies, or None to start from nothing.

    Checkpoints of another recipe are refused with the differences, or deleted if `redo`.
    """
    remove_leftovers(folder)
    for path in step_folders(folder):
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
        refuse_other(str(folder), found.manifest, spec)
    return None


def refuse_other(where: str, manifest: Mapping[str, Any], spec: Spec) -> NoReturn:
    """Say how the checkpoints at a place differ from what this run would make."""
    raise UserError(
        f"{where} holds checkpoints of another recipe or other data ({'; '.join(changes(manifest, spec))}); "
        "choose another run=NAME to keep them, or add redo=true to delete them and start again"
    )


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


def step_name(step: int) -> str:
    """The folder of the checkpoint after a step."""
    return f"step-{step:08d}"


def step_folders(folder: Path) -> list[Path]:
    """Published checkpoints, newest first."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdigit() and (path / MANIFEST).exists()]
    return sorted(found, reverse=True)


def _verified(path: Path) -> Artifact | None:
    try:
        return open_artifact(path, "train", verify="full")
    except DamagedError:
        return None


def _generator(rank: int) -> str:
    return f"torch.{rank}" if rank else "torch"


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return path.rename(aside)
