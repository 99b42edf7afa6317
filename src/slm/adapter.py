"""`slm adapter CHECKPOINT FOLDER`: the adapter that a run with `train.lora` trained, in the forms that others open.

In: a checkpoint (a run's folder, its train folder or one step of it) that was trained with adapters. Out: FOLDER, an
artifact of kind `adapter` with peft's two files, which peft, transformers and vLLM put beside the base, and, unless it
is DoRA, `adapter.gguf`, which llama.cpp puts beside any GGUF file of the base (`--lora`), but for one of rescaled
weights (`export.gguf_variant`). Its parent is the checkpoint, whose own parent is the base. The model with its adapter
merged is the checkpoint itself. Where the base has been exported for transformers, the adapter says where that lies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Draft, Spec, make, newest_checkpoint, open_artifact, verify_files
from slm.core.config import Config
from slm.core.console import say
from slm.core.errors import UserError
from slm.export.gguf_adapter import write_adapter
from slm.model.config import LoraConfig
from slm.model.load import load_tensors, read_config
from slm.model.lora import Adapter, save_adapter
from slm.serve.engine import exported_from
from slm.train.checkpoint import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor


def adapter(arguments: list[str]) -> None:
    """Write the adapter of the checkpoint at the first argument into the folder that the second names."""
    redo = "redo=true" in arguments
    words = [word for word in arguments if word not in ("redo=true", "redo=false")]
    if len(words) != 2:
        raise UserError("usage: slm adapter CHECKPOINT FOLDER [redo=true], such as runs/tuned adapters/tuned")
    where, folder = map(Path, words)
    checkpoint = open_artifact(newest_checkpoint(where), "train")
    settings = checkpoint.section["train"].get("lora")
    if settings is None:
        raise UserError(f"{checkpoint.path} was trained without train.lora, so it has no adapter; name one that was")
    exported = _exported(checkpoint, checkpoint.manifest["parents"]["initial"])
    spec = Spec("adapter", Config(), {"train": checkpoint}, {"base exported": bool(exported)})
    make(folder, spec, lambda draft: _write(checkpoint, settings, exported, draft), redo=redo)


def _write(checkpoint: Artifact, settings: dict[str, object], exported: str, draft: Draft) -> None:
    verify_files(checkpoint, [name for name in checkpoint.manifest["files"] if name.startswith(ADAPTER)])
    config = LoraConfig.model_validate(settings)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(checkpoint.path, stem=ADAPTER).items():
        matrix, _, part = name.rpartition(".")
        tensors.setdefault(matrix, {})[part] = tensor
    initial = checkpoint.manifest["parents"]["initial"]
    found = Adapter(config, tensors, initial["fingerprint"])
    save_adapter(found, draft.path, exported)
    if initial["kind"] != "train":
        say(
            f"adapter: it was trained beside a variant ({initial['path']}), which slm generate does not open; serve "
            "the checkpoint, which is merged"
        )
    elif not exported:
        say("adapter: its base has not been exported for transformers, so peft must be told where that is; redo=true "
            "writes its place once it has")  # fmt: skip
    if config.base != "float":
        say(
            f"adapter: it was trained beside a base in {config.base}, which slm holds so again; peft and llama.cpp put "
            "it beside the float base, where it computes something else: give them the checkpoint, which is merged"
        )
    if config.dora:
        say("adapter: llama.cpp has no DoRA, so no GGUF file is written; export the checkpoint, which is merged")
    else:
        write_adapter(found, read_config(checkpoint.path), draft.path / "adapter.gguf")
    draft.counts.update(base=found.base, rank=config.rank, matrices=len(tensors))


def _exported(checkpoint: Artifact, initial: Mapping[str, str]) -> str:
    """Where the base lies as transformers opens it, from the present directory; empty if it has not been exported."""
    base = Path(os.path.normpath(checkpoint.path / initial["path"]))
    folders = (run / "export" / "hf" for run in base.parents[:2])
    found = (folder for folder in folders if exported_from(folder) == initial["fingerprint"])
    return next((os.path.relpath(folder) for folder in found), "")
