"""A model to a folder and back: `model_config.json` and sharded safetensors with an index.

Files: `model_config.json` (the ModelConfig), `model-00001-of-0000N.safetensors` and
`model.safetensors.index.json` in Hugging Face's form, `{"metadata": {"total_size"}, "weight_map"}`. A
tied head is not stored. Reading checks every name, shape and number before the model is handed out:
nothing is left at a default and nothing is ignored.

What it does not do: optimizer state, or atomic publishing; the caller writes into an artifact's draft.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from slm.core.errors import DamagedError, UserError
from slm.model.config import ModelConfig
from slm.model.transformer import Transformer

CONFIG = "model_config.json"
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
STEM = "model"
MAX_SHARD_BYTES = 4 * 10**9
FILE_NAME = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)

Take = Callable[[Any, str], Tensor]
"""Reads one tensor by name, or the part of it that is wanted here, from an open safetensors file."""
Attention = Literal["auto", "sdpa", "flash_attn", "varlen", "flex"]


def save_model(model: Transformer, folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write `model` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(model.config.resolved(), indent=1), encoding="utf-8")
    save_tensors(model.state_dict(), folder, max_shard_bytes)


def load_model(folder: Path, *, attention: Attention = "auto") -> Transformer:
    """Read a model written by `save_model`, on the CPU.

    The attention backend belongs to the machine and not to the weights, so it is not taken from the file.
    """
    config = read_config(folder).model_copy(update={"attention": attention})
    return model_from(config, load_tensors(folder), folder)


def load_weights(model: Transformer, folder: Path, take: Take | None = None, stem: str = STEM) -> None:
    """Read the weights in `folder` into `model`, keeping its tensors where they are; see `load_tensors`."""
    state = load_tensors(folder, take, stem)
    check_tensors(model.config, state, folder)
    model.load_state_dict(state)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in `folder`."""
    content = read_json(folder / CONFIG)
    try:
        return ModelConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole"
        raise DamagedError(
            f"{folder / CONFIG} does not describe a model ({key}: {first['msg']}); restore it or save the model again"
        ) from error


def model_from(config: ModelConfig, state: Mapping[str, Tensor], folder: Path) -> Transformer:
    """A model of `config` that holds exactly the tensors of `state`; `folder` is named in errors."""
    check_tensors(config, state, folder)
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def expected_shapes(config: ModelConfig, stored: Collection[str], folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model; a shape far beyond what is `stored` in `folder` is refused unbuilt."""
    try:
        if config.layers > len(stored):
            raise ValueError(f"{config.layers:,} layers, {len(stored):,} tensors")
        with torch.device("meta"):
            return {name: tuple(tensor.shape) for name, tensor in Transformer(config).state_dict().items()}
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:  # torch's, of sizes beyond its integers
        raise DamagedError(
            f"{folder} lacks what its {CONFIG} asks for ({str(error).splitlines()[0][:200]}); restore the folder from "
            "where it came or save the model again"
        ) from error


def check_tensors(config: ModelConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse tensors that are missing, too many, of another shape, or not finite."""
    shapes = expected_shapes(config, state, folder)
    missing, extra = [n for n in shapes if n not in state], [n for n in state if n not in shapes]
    if missing:
        raise DamagedError(
            f"{folder} lacks {_listed(missing)}, which a model of {config.layers} layers needs; "
            "restore the folder from where it came or save the model again"
        )
    if extra:
        raise DamagedError(
            f"{folder} holds {_listed(extra)}, which its {CONFIG} has no place for; "
            "correct the configuration or save the model again"
        )
    for name, shape in shapes.items():
        found = tuple(state[name].shape)
        if found != shape:
            raise DamagedError(
                f"{folder}: {name} has shape {list(found)}, but the configuration asks for {list(shape)}; "
                "correct the configuration or save the model again"
            )
    broken = [name for name in shapes if not bool(torch.isfinite(_held(state[name])).all())]
    if broken:
        raise DamagedError(
            f"{folder}: {_listed(broken)} holds NaN or infinity, so every answer would be NaN; "
            "go back to an earlier checkpoint"
        )


def save_tensors(
    state: Mapping[str, Tensor], folder: Path, max_shard_bytes: int = MAX_SHARD_BYTES, *, index_one_file: bool = True
) -> None:
    """Write tensors as numbered safetensors files of at most `max_shard_bytes` (or one tensor) and an index.

    Without `index_one_file`, a model that fits into one file becomes `model.safetensors` alone.
    """
    from safetensors.torch import save_file

    if max_shard_bytes < 1:
        raise UserError(f"max_shard_bytes ({max_shard_bytes}) must be at least 1; leave it out for 4 GB files")
    shards = list(_shards(state, max_shard_bytes))
    alone = len(shards) == 1 and not index_one_file
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = ONE_FILE if alone else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: state[name].detach().cpu().contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    if alone:
        return
    total = sum(tensor.nbytes for tensor in state.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def load_tensors(folder: Path, take: Take | None = None, stem: str = STEM) -> dict[str, Tensor]:
    """Every tensor that `<stem>.safetensors.index.json` in `folder` names; a lone file needs no index.

    With `take` each is what that reads of it, such as the part that one of several processes holds.
    """
    index, one_file = f"{stem}.safetensors.index.json", f"{stem}.safetensors"
    if not (folder / index).is_file() and (folder / one_file).is_file():
        return read_safetensors(folder / one_file, take)
    weight_map = _weight_map(folder / index)
    state: dict[str, Tensor] = {}
    for file in dict.fromkeys(weight_map.values()):
        listed = {name for name, where in weight_map.items() if where == file}
        tensors = read_safetensors(folder / file, take)
        if set(tensors) != listed:
            differing = _listed(sorted(set(tensors) ^ listed))
            raise DamagedError(
                f"{folder / file} and {index} disagree about {differing}; restore the folder or save again"
            )
        state.update(tensors)
    return state


def tensor_places(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor of a model, without reading them."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file() or not (folder / ONE_FILE).is_file():
        return {name: folder / file for name, file in _weight_map(folder / INDEX).items()}
    try:
        with safe_open(folder / ONE_FILE, framework="pt") as file:
            return dict.fromkeys(file.keys(), folder / ONE_FILE)
    except (SafetensorError, ValueError) as error:
        raise _damaged(folder / ONE_FILE, error) from error


def read_tensor(path: Path, name: str) -> Tensor:
    """One tensor of one file."""
    found = read_safetensors(path, names=(name,))
    if name not in found:
        raise DamagedError(f"{path} does not hold {name}, which its index names; restore the folder or save again")
    return found[name]


def read_safetensors(path: Path, take: Take | None = None, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """All tensors of one file, or those of `names` that are there, or what `take` reads of them."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DamagedError(f"{path} is missing; restore it from where it came or save the model again")
    try:
        # Copied out of the mapped file: its tensors start at odd addresses, and MKL's results depend on alignment.
        with safe_open(path, framework="pt") as file:
            wanted = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118
            return {name: take(file, name) if take else file.get_tensor(name).clone() for name in wanted}
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error


def _weight_map(index: Path) -> dict[str, str]:
    """The file beside `index` that holds each tensor."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamagedError(f"{index} has no weight_map; restore it or save the model again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not FILE_NAME.fullmatch(file):
            raise DamagedError(
                f"{index} puts {name} into {file!r:.80}, which is no file beside it; restore it or save the model again"
            )
    return weight_map


def _damaged(path: Path, error: Exception) -> DamagedError:
    reason = f"{str(error)[:200]}; {path.stat().st_size:,} bytes"
    return DamagedError(f"{path} is damaged ({reason}); restore it or go back to an earlier one")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    if not path.is_file():
        raise UserError(f"there is no model in {path.parent} (no {path.name}); correct the path or train one first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not JSON ({error}); restore it or save the model again") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} holds {type(content).__name__} instead of an object; restore it or save again")
    return content


def _shards(state: Mapping[str, Tensor], max_shard_bytes: int) -> Iterator[list[str]]:
    names: list[str] = []
    used = 0
    for name, tensor in state.items():
        if names and used + tensor.nbytes > max_shard_bytes:
            yield names
            names, used = [], 0
        names.append(name)
        used += tensor.nbytes
    if names:
        yield names


def _held(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, where others hold the rest."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
