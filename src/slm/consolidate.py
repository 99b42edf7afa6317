"""`slm consolidate CHECKPOINT FOLDER`: the model of a checkpoint as one safetensors file.

In: a checkpoint (a run's folder, its train folder or one step of it), whose model lies in several files where several
processes wrote it or where it is large. Out: FOLDER, an artifact of kind `model` with `model.safetensors`,
`model_config.json` and a manifest that names the checkpoint. Names and bits of the tensors are those of the
checkpoint, whose hashes are checked first; what was written is compared with it before it gets its name. Tensors
are mapped and not loaded, so that a model larger than the memory fits.

What it does not do: the optimizer's state, which only training reads, from any number of files; the names and the
tokenizer that other programs expect, which `export` writes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from slm.core.artifact import Artifact, Draft, Spec, make, newest, open_artifact, verify_files
from slm.core.config import Config
from slm.core.errors import DamagedError, UserError
from slm.model.load import CONFIG, ONE_FILE, STEM, check_tensors, load_tensors, read_config


def consolidate(where: Path, folder: Path) -> Artifact:
    """Write the model of the checkpoint at `where` into `folder` as one file; one that is there already stays."""
    checkpoint = open_artifact(newest(where / "train" if (where / "train").is_dir() else where), "train")
    spec = Spec("model", Config(), {"train": checkpoint})
    if folder.exists() and not _is_made_from(folder, spec):
        raise UserError(f"{folder} exists and is not the model of {checkpoint.path}; name a folder that does not exist")

    def build(draft: Draft) -> None:
        verify_files(checkpoint, [name for name in checkpoint.manifest["files"] if name.startswith(STEM)])
        tensors = _mapped(checkpoint.path)
        check_tensors(read_config(checkpoint.path), tensors, checkpoint.path)
        save_file(tensors, draft.path / ONE_FILE, metadata={"format": "pt"})
        (draft.path / CONFIG).write_bytes((checkpoint.path / CONFIG).read_bytes())
        written = _mapped(draft.path)
        wrong = [name for name, tensor in tensors.items() if not torch.equal(written[name], tensor)]
        if wrong:
            raise DamagedError(f"{wrong[0]} is not in {folder / ONE_FILE} what it is in {checkpoint.path}; try again")
        draft.counts.update(tensors=len(tensors), parameters=sum(tensor.numel() for tensor in tensors.values()))

    return make(folder, spec, build)


def _mapped(folder: Path) -> dict[str, Tensor]:
    return load_tensors(folder, lambda file, name: file.get_tensor(name))


def _is_made_from(folder: Path, spec: Spec) -> bool:
    try:
        return open_artifact(folder, spec.kind).key == spec.key
    except UserError:
        return False
