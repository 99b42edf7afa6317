"""Our reader of GGUF files: metadata and tensors of one file, or of one that was split, every number checked first.

In: the path of a file, or of the first part of a split one (`…-00001-of-00003.gguf`). Out: a `GgufFile`. llama.cpp ends
the program on some malformed files and gguf-py raises whatever numpy does, so nothing is handed to either before this
reader has found it whole: magic, version, counts, lengths and types are checked against what the file can hold, and
tensors must lie one behind the other, aligned and inside the file, as llama.cpp asks for too. What is not so is refused
by one sentence, within memory and time that the header's size bounds.

Cost: about 1 us an entry of the vocabulary; tensors are mapped and read only when asked for. What it does not do: the
other byte order, arrays of arrays (llama.cpp reads neither), whether the metadata make sense for an architecture.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as TensorType
from gguf import GGUFValueType as ValueType

from slm.core.errors import DamagedError, UserError
from slm.core.model_files import PART, parts_of

if TYPE_CHECKING:
    import numpy.typing as npt

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_HEADER_BYTES = 1 << 27
"""No header is read further: a vocabulary of 256,000 pieces with its merges takes a tenth of it."""
MOST_DIMENSIONS, MOST_NAME_BYTES = 4, 63
"""Of a tensor, as ggml's arrays for them end there (GGML_MAX_DIMS, GGML_MAX_NAME)."""
LEAST_PAIR_BYTES, LEAST_TENSOR_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8
ALIGNMENT, SPLIT_COUNT, SPLIT_NUMBER, SPLIT_TENSORS = (
    "general.alignment", "split.count", "split.no", "split.tensors.count",
)  # fmt: skip
NUMBERS: dict[ValueType, npt.DTypeLike] = {
    ValueType.UINT8: "<u1", ValueType.INT8: "<i1", ValueType.UINT16: "<u2", ValueType.INT16: "<i2",
    ValueType.UINT32: "<u4", ValueType.INT32: "<i4", ValueType.FLOAT32: "<f4", ValueType.BOOL: "?",
    ValueType.UINT64: "<u8", ValueType.INT64: "<i8", ValueType.FLOAT64: "<f8",
}  # fmt: skip
FLOATS = {TensorType.F32: "<f4", TensorType.F16: "<f2", TensorType.F64: "<f8"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies, and how."""

    path: Path
    type: TensorType
    shape: tuple[int, ...]
    """Rows before columns, as everywhere here; a GGUF file writes them the other way round."""
    start: int
    size_bytes: int

    def data(self) -> npt.NDArray[Any]:
        """The numbers, or the bytes of each row where the type packs numbers into blocks."""
        mapped = np.memmap(self.path, np.uint8, "r", self.start, (self.size_bytes,))
        if self.type in FLOATS:
            return mapped.view(FLOATS[self.type]).reshape(self.shape)
        return mapped.reshape(*self.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a file holds; of one that was split, what its parts hold together."""

    parts: tuple[Path, ...]
    metadata: dict[str, Any]
    """Numbers, texts, lists of texts, arrays of numbers; those of the first part."""
    tensors: dict[str, StoredTensor]

    @property
    def size_bytes(self) -> int:
        """Of all parts."""
        return sum(part.stat().st_size for part in self.parts)


def read_gguf(path: Path) -> GgufFile:
    """The metadata and the tensors' places of a whole file, or of the split one whose first part is at `path`."""
    first = _read_one(path)
    count = _small_number(path, first.metadata, SPLIT_COUNT, 1)
    if count == 1:
        return first
    match = PART.fullmatch(path.name)
    if match is None or int(match[3]) != count or int(match[2]) != 1:
        raise UserError(
            f"{path} is a part of a model in {count:,} files; give the first, named NAME-00001-of-{count:05}.gguf, and "
            "keep the names that they were made with"
        )
    files = [first, *map(_read_one, parts_of(path)[1:])]
    tensors: dict[str, StoredTensor] = {}
    for number, file in enumerate(files):
        twice = tensors.keys() & file.tensors.keys()
        facts = [_small_number(path, file.metadata, key, -1) for key in (SPLIT_NUMBER, SPLIT_COUNT)]
        if twice or facts != [number, count]:
            raise _damaged(file.parts[0], f"it is not part {number + 1} of {count} of {path.name}")
        tensors.update(file.tensors)
    expected = _small_number(path, first.metadata, SPLIT_TENSORS, -1)
    if len(tensors) != expected:
        raise _damaged(path, f"its {count} parts hold {len(tensors):,} tensors instead of {expected:,}")
    return GgufFile(tuple(file.parts[0] for file in files), first.metadata, tensors)


def _read_one(path: Path) -> GgufFile:
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; give the path of a .gguf file, such as runs/NAME/export/model-f16.gguf"
        )
    with path.open("rb") as stream:
        magic = stream.read(4)
        if magic != MAGIC:
            raise UserError(f"{path} is not a GGUF file (it starts with {magic!r}, not {MAGIC!r}); give a .gguf file")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _read(path, _Cursor(content))
            except _MalformedError as error:
                raise _damaged(path, str(error)) from error


def _read(path: Path, cursor: _Cursor) -> GgufFile:
    version = cursor.number("<I", "its version")
    if version not in VERSIONS:
        raise _MalformedError(f"version {version:,} is none of {', '.join(map(str, VERSIONS))}")
    tensors = cursor.count("<Q", LEAST_TENSOR_BYTES, "tensors")
    pairs = cursor.count("<Q", LEAST_PAIR_BYTES, "metadata entries")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.name("a metadata key")
        if key in metadata:
            raise _MalformedError(f"{key} is there twice")
        kind = cursor.number("<I", f"the type of {key}")
        if key == ALIGNMENT and kind != ValueType.UINT32:
            raise _MalformedError(f"{key} is no 32-bit number")
        metadata[key] = cursor.value(kind, key)
    found: dict[str, StoredTensor] = {}
    align, end = _alignment(metadata), 0
    for _ in range(tensors):
        name, kind, shape, offset = cursor.tensor()
        if name in found:
            raise _MalformedError(f"tensor {name} is there twice")
        if offset != end:
            raise _MalformedError(f"tensor {name} begins at {offset:,} instead of {end:,} bytes behind the header")
        size = _size_bytes(name, kind, shape)
        found[name] = StoredTensor(path, kind, shape, offset, size)
        end += -(-size // align) * align
    start = -(-cursor.place // align) * align
    last = max((tensor.start + tensor.size_bytes for tensor in found.values()), default=0)
    if found and start + last > cursor.size:
        raise _MalformedError(f"it has {cursor.size:,} bytes, but its tensors end at {start + last:,}")
    placed = {
        name: StoredTensor(path, tensor.type, tensor.shape, start + tensor.start, tensor.size_bytes)
        for name, tensor in found.items()
    }
    return GgufFile((path,), metadata, placed)


class _MalformedError(Exception):
    """What is wrong inside a file; becomes part of our sentence."""


class _Cursor:
    """Takes value after value, none of them beyond the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self.size = content, len(content)
        self._end = min(self.size, MOST_HEADER_BYTES)
        self.place = len(MAGIC)

    def number(self, form: str, what: str) -> int:
        """An integer of a `struct` format."""
        start = self._advance(struct.calcsize(form), what)
        found: int = struct.unpack_from(form, self._content, start)[0]
        return found

    def count(self, form: str, least_bytes: int, what: str) -> int:
        """How many things of at least so many bytes follow; more than fit are refused before any is made."""
        found = self.number(form, f"the number of {what}")
        if found * least_bytes > self._end - self.place:
            raise _MalformedError(f"{found:,} {what} do not fit into its {self._end - self.place:,} bytes left")
        return found

    def text(self, what: str) -> bytes:
        start = self._advance(self.number("<Q", what), what)
        return self._content[start : self.place]

    def name(self, what: str) -> str:
        try:
            return self.text(what).decode()
        except UnicodeDecodeError as error:
            raise _MalformedError(f"{what} is not UTF-8") from error

    def value(self, number: int, key: str) -> Any:
        """One metadata value; bytes that are no UTF-8 become U+FFFD."""
        kind = _known(ValueType, number, f"the type of {key}")
        if kind == ValueType.ARRAY:
            of = _known(ValueType, self.number("<I", key), f"the type of the entries of {key}")
            if of == ValueType.STRING:
                return [self.text(key).decode(errors="replace") for _ in range(self.count("<Q", 8, f"texts of {key}"))]
            if of in NUMBERS:
                size = np.dtype(NUMBERS[of]).itemsize
                return self._array(of, self.count("<Q", size, f"entries of {key}"), key)
            raise _MalformedError(f"{key} is an array of arrays")
        if kind == ValueType.STRING:
            return self.text(key).decode(errors="replace")
        return self._array(kind, 1, key)[0].item()

    def tensor(self) -> tuple[str, TensorType, tuple[int, ...], int]:
        """Name, type, shape and offset of one tensor."""
        name = self.name("the name of a tensor")
        if len(name.encode()) > MOST_NAME_BYTES:
            raise _MalformedError(f"the name of tensor {name[:20]}... is longer than {MOST_NAME_BYTES} bytes")
        dimensions = self.number("<I", f"the shape of {name}")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _MalformedError(f"tensor {name} has {dimensions:,} dimensions instead of 1 to {MOST_DIMENSIONS}")
        shape = tuple(self.number("<Q", f"the shape of {name}") for _ in range(dimensions))
        kind = _known(TensorType, self.number("<I", f"the type of {name}"), f"the type of tensor {name}")
        return name, kind, shape[::-1], self.number("<Q", f"the place of {name}")

    def _array(self, kind: ValueType, count: int, what: str) -> npt.NDArray[Any]:
        kind_of_number = np.dtype(NUMBERS[kind])
        start = self._advance(kind_of_number.itemsize * count, what)
        return np.frombuffer(self._content[start : self.place], kind_of_number)

    def _advance(self, size: int, what: str) -> int:
        start = self.place
        if size > self._end - start:
            raise _MalformedError(f"it ends inside {what[:80]}")
        self.place += size
        return start


def _known(kinds: Any, number: int, what: str) -> Any:
    try:
        return kinds(number)
    except ValueError as error:
        raise _MalformedError(f"{what[:80]} ({number:,}) is unknown") from error


def _alignment(metadata: Mapping[str, Any]) -> int:
    align: int = metadata.get(ALIGNMENT, gguf.GGUF_DEFAULT_ALIGNMENT)
    if not 0 < align < MOST_HEADER_BYTES or align & (align - 1):
        raise _MalformedError(f"{ALIGNMENT} ({align}) is no power of two")
    return align


def _size_bytes(name: str, kind: TensorType, shape: tuple[int, ...]) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block or not all(shape):
        raise _MalformedError(f"tensor {name} of shape {list(shape)} does not fall into blocks of {block}")
    return math.prod(shape) // block * size


def _small_number(path: Path, metadata: Mapping[str, Any], key: str, default: int) -> int:
    found = metadata.get(key, default)
    if not isinstance(found, int) or not -1 <= found < 1 << 16:
        raise _damaged(path, f"{key} ({found!r:.40}) is no such number")
    return found


def _damaged(path: Path, reason: str) -> DamagedError:
    printable = " ".join("".join(letter if letter.isprintable() else " " for letter in reason).split())
    return DamagedError(f"{path} is not readable as a GGUF file ({printable[:200]}); export or download it again")
