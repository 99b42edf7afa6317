"""Which process keeps and writes which tensor of a checkpoint, and in which file.

In: the sizes of all tensors, by name. Out: files of whole tensors in Hugging Face's layout
(`model-00001-of-00002.safetensors`, `model.safetensors.index.json`), each owned by one process. So memory for
the copy and time for writing and hashing divide by the processes, while any number of them reads the result.
A tensor is never cut: the largest one (mostly the embedding) bounds how even the shares are.

Pure functions of sizes, the same in every process. What it does not do: write or gather (`checkpoint`, `parallel`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from slm.model.load import MAX_SHARD_BYTES, STEM

Key = TypeVar("Key", bound=str | tuple[str, ...])


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One file: its name, the names of its tensors, and the process that writes it."""

    name: str
    tensors: tuple[str, ...]
    owner: int


def owners(sizes: Mapping[Key, int], processes: int) -> dict[Key, int]:
    """The process that keeps each tensor: the largest first, to whoever has fewest bytes."""
    loads = [0] * processes
    found: dict[Key, int] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = min(range(processes), key=lambda process: loads[process])
        found[name] = least
        loads[least] += sizes[name]
    return found


def files_of(
    stem: str, sizes: Mapping[str, int], owner: Mapping[str, int], max_bytes: int = MAX_SHARD_BYTES
) -> list[TensorFile]:
    """The files of the group of tensors `stem`: at most `max_bytes` (or one tensor) each, tensors in their order.

    One file of anything but the model needs no number and no index.
    """
    groups: list[tuple[int, list[str]]] = []
    for process in sorted({owner[name] for name in sizes}):
        names: list[str] = []
        used = 0
        for name, size in sizes.items():
            if owner[name] != process:
                continue
            if names and used + size > max_bytes:
                groups.append((process, names))
                names, used = [], 0
            names.append(name)
            used += size
        groups.append((process, names))
    total = len(groups)
    if total == 1 and stem != STEM:
        return [TensorFile(f"{stem}.safetensors", tuple(sizes), groups[0][0])]
    return [
        TensorFile(f"{stem}-{number:05}-of-{total:05}.safetensors", tuple(names), process)
        for number, (process, names) in enumerate(groups, 1)
    ]


def index_text(files: Sequence[TensorFile], sizes: Mapping[str, int]) -> str:
    """The content of `<stem>.safetensors.index.json`."""
    weight_map = {name: file.name for file in files for name in file.tensors}
    return json.dumps({"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}, indent=1)
