"""The cases of fuzz_readers.py: whole files, ways to damage them, and the readers that must refuse what comes of it.

    python scripts/fuzz_readers_cases.py TARGET SEED FIRST COUNT FOLDER

Runs cases FIRST to FIRST + COUNT - 1 in FOLDER and prints a JSON line for each that ends by anything but an answer or
the project's own error, and one with the counts at the end. Before each case its number is written to FOLDER/case, so
that whoever waits knows which one was under way when the process died. A case is a pure function of target, seed and
number. Time and memory of a case are bounded here; both bounds raise inside the reader, whose failure it is.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from slm.compress.assemble import assemble
from slm.compress.config import CompressConfig, Variant
from slm.compress.files import load_compressed
from slm.compress.stream import StoredModel, compress_blocks
from slm.core.artifact import MANIFEST, Artifact, Draft, Spec, make, open_artifact
from slm.core.config import Config
from slm.core.errors import UserError
from slm.core.lineage import lineage
from slm.core.manifest import manifest_checksum
from slm.corpus.cleaning import quality_score
from slm.corpus.cleaning.quality_model import write_model
from slm.model.config import ModelConfig
from slm.model.load import load_model, read_safetensors, save_model
from slm.model.transformer import build
from slm.serve.engine import trained_on_chat
from slm.serve.gguf_file import GgufFile, read_gguf
from slm.serve.llama_backend import describe
from slm.serve.llama_cpp import control_tokens

MOST_SECONDS = 2.0
MOST_BYTES = 512 << 20
"""Of address space, beyond what the process has when it starts: files here have a few thousand bytes."""
MOST_LETTERS = 2_000
"""Of a sentence, names of up to 255 letters in it included."""
SHAPE = {
    "vocab_size": 16, "width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 32,
    "max_seq_len": 16, "attention": "sdpa",
}  # fmt: skip
NUMBERS = (
    0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 31, 32, 63, 64, 65, 255, 256, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
    0xFFFFFFFF, 1 << 32, 1 << 40, (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 16, 1 << 31, 1 << 53, 1 << 63, 1 << 64, -(1 << 63), 10**300, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "\0", ".", "..", "/", "../x", "/etc/passwd", "\ud800", "\u0130", "a" * 5000, "F32",
    "BF16", "F8_E4M3", "F4", "I64", "BOOL", "train", "embedding.weight", [], {}, [[]], [0], [-1], [0, 0], [1 << 63],
    [0, 1 << 62], {"x": None},
)  # fmt: skip

Read = Callable[[], None]
Mutate = Callable[[random.Random], Read]
"""Damages a file of a target's folder; what comes back reads it."""


class TooSlowError(BaseException):
    """A case took longer than it may; no `Exception`, so that no reader takes it for one of its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended."""

    kind: str
    """`answered`, `refused`, or what was raised."""
    where: str = ""


class Shape(Config):
    """Settings of an artifact that has none."""


def run_case(mutate: Mutate, target: str, seed: int, number: int) -> Outcome:
    """Damage a file and read it."""
    read = mutate(random.Random(f"{seed} {target} {number}"))
    try:
        with _bounded():
            read()
    except UserError as error:
        text = str(error)
        return (
            Outcome("refused") if text and len(text) <= MOST_LETTERS else Outcome("a sentence without end", text[:200])
        )
    except (Exception, TooSlowError) as error:  # noqa: BLE001
        places = [place for place in traceback.extract_tb(error.__traceback__) if "fuzz_readers" not in place.filename]
        last = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
        return Outcome(type(error).__name__, f"{last} {str(error)[:200]}")
    return Outcome("answered")


@contextmanager
def _bounded() -> Iterator[None]:
    def too_slow(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.setitimer(signal.ITIMER_REAL, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# Damage


def damaged_bytes(draw: random.Random, content: bytes, header: int) -> bytes:
    """Bytes with one to four kinds of damage, most of it within the first `header`."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        end = min(len(data), header) if draw.random() < 0.9 else len(data)
        place = draw.randrange(max(end, 1))
        match draw.randrange(8):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[min(place, len(data) - 1)] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2 | 3:
                form = draw.choice(("<Q", "<I", "<H"))
                size = struct.calcsize(form)
                number = draw.choice(NUMBERS) + draw.choice((0, 0, -1, 1))
                data[place : place + size] = struct.pack(form, number % (1 << 8 * size))
            case 4:
                del data[draw.choice((place, draw.randrange(len(data) + 1))) :]
            case 5:
                del data[place : place + draw.choice((1, 4, 8, draw.randrange(64)))]
            case 6:
                other = draw.randrange(len(data) + 1)
                data[place:place] = data[other : other + draw.choice((1, 4, 8, 16, draw.randrange(256)))]
            case 7:
                data[place:place] = draw.randbytes(draw.choice((1, 4, 8, 32)))
    return bytes(data)


def damaged_value(draw: random.Random, value: Any) -> Any:
    """A JSON value with one to three of its parts changed, removed, renamed or nested."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 3))):
        holders: list[Any] = [[value]]
        for holder in holders:
            holders += [part for part in _parts(holder) if isinstance(part, dict | list) and part]
        holder = draw.choice(holders)
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match draw.randrange(8):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw.choice(("", "..", "/x", "a\0", "\ud800", "x" * 300, str(key) + "2"))] = holder.pop(key)
            case 2 if isinstance(holder[key], int):
                holder[key] = draw.choice((holder[key] + 1, -holder[key], holder[key] << 32, holder[key] - 1))
            case 3:
                holder[key] = [holder[key]]
            case 4:
                holder[key] = copy.deepcopy(draw.choice(_parts(draw.choice(holders))))
            case _:
                holder[key] = copy.deepcopy(draw.choice(WEIRD))
        if holder is holders[0]:
            value = holder[0]
        if not isinstance(value, dict | list):
            break
    return value


def damaged_json(draw: random.Random, value: Any) -> bytes:
    """The text of a damaged value, sometimes with damage of its own."""
    changed = damaged_value(draw, value)
    text = json.dumps(changed, indent=draw.choice((None, 1)), ensure_ascii=draw.random() < 0.5)
    content = text.encode("utf-8", "surrogatepass")
    kind = draw.randrange(20)
    if kind < 4:
        return damaged_bytes(draw, json.dumps(value).encode(), 1 << 20)
    if kind == 4:
        return content.replace(b"1", draw.choice((b"1e400", b"9" * 5000, b"NaN", b"[" * 100_000)), 1)
    if kind == 5:
        return draw.choice((b"[" * 200_000, b'{"a":' * 50_000, b"", b"null", b"7", b'"', b"\xff\xfe{", b"\x00" * 64))
    return content


def _parts(holder: Any) -> list[Any]:
    return list(holder.values() if isinstance(holder, dict) else holder)


# Targets


def gguf_target(folder: Path) -> Mutate:
    """A whole file and one in three parts, each with every kind of metadata; accepted ones beside gguf-py's reader."""
    whole, parts = [_write_gguf(folder, name, size) for name, size in (("whole", 0), ("parts", 2_500))]
    sound = {path: path.read_bytes() for path in (*whole, *parts)}
    headers = {path: min(tensor.start for tensor in _tensors_of(path)) for path in sound}

    def mutate(draw: random.Random) -> Read:
        path = draw.choice((whole[0], whole[0], whole[0], *parts))
        first = whole[0] if path == whole[0] else parts[0]
        for other in parts:
            other.write_bytes(sound[other])
        path.write_bytes(damaged_bytes(draw, sound[path], headers[path]))

        def read() -> None:
            file = read_gguf(first)
            for tensor in file.tensors.values():
                gguf.quants.dequantize(tensor.data(), tensor.type)
            _compare_with_gguf_py(file)
            describe(first)
            control_tokens(first)

        return read

    return mutate


def safetensors_target(folder: Path) -> Mutate:
    """A file of three types of tensors, and a quality model's."""
    path, model = folder / "a.safetensors", folder / "quality"
    write_model(model, np.zeros(64, np.float32), 0.5, {})
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]},
        "b": {"dtype": "BF16", "shape": [8], "data_offsets": [64, 80]},
        "c": {"dtype": "U8", "shape": [16], "data_offsets": [80, 96]},
    }
    weights = {"weights": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}

    def mutate(draw: random.Random) -> Read:
        if draw.random() < 0.2:
            (model / quality_score.WEIGHTS).write_bytes(damaged_safetensors(draw, weights, bytes(256)))
            return lambda: [None, quality_score.load_model(model)][0]
        path.write_bytes(damaged_safetensors(draw, header, bytes(96)))
        return lambda: [None, read_safetensors(path)][0]

    return mutate


def damaged_safetensors(draw: random.Random, header: dict[str, Any], data: bytes) -> bytes:
    """A file whose header, or the length before it, is damaged."""
    sound = json.dumps(header).encode()
    if draw.random() < 0.3:
        return damaged_bytes(draw, struct.pack("<Q", len(sound)) + sound + data, 8 + len(sound))
    text = damaged_json(draw, header)
    length = len(text) if draw.random() < 0.95 else draw.choice(NUMBERS)
    return struct.pack("<Q", length % (1 << 64)) + text + data[: draw.choice((len(data), len(data), 0, 17))]


def manifest_target(folder: Path) -> Mutate:
    """The manifest of an artifact with two ancestors, mostly with the checksum that fits it again."""

    def write(draft: Draft) -> None:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "b.bin").write_bytes(bytes(64))
        draft.counts.update(step=3, sources={"x": {"documents": 2}})

    corpus = make(folder / "corpus", Spec("corpus", Shape()), write)
    shards = make(folder / "shards", Spec("shards", Shape(), {"corpus": corpus}), write)
    train = make(folder / "train", Spec("export", Shape(), {"train": shards, "corpus": corpus}), write)

    def mutate(draw: random.Random) -> Read:
        artifact: Artifact = draw.choice((train, train, train, shards))
        other = shards if artifact is train else train
        (other.path / MANIFEST).write_text(json.dumps(other.manifest), encoding="utf-8")
        content = damaged_json(draw, artifact.manifest)
        if draw.random() < 0.7:
            changed = damaged_value(draw, artifact.manifest)
            if isinstance(changed, dict):
                try:
                    changed["checksum"] = manifest_checksum(changed)
                except (ValueError, TypeError):
                    changed["checksum"] = ""
            content = json.dumps(changed).encode()
        (artifact.path / MANIFEST).write_bytes(content)

        def read() -> None:
            trained_on_chat(train.path / "sub" / "b.bin")
            lineage(train.path / "sub" / "b.bin")
            open_artifact(train.path, verify="full")

        return read

    return mutate


def model_target(folder: Path) -> Mutate:
    """Folders of a model: its shape, the index of its files, the grids of its integers, the headers of its files."""
    model = build(ModelConfig.model_validate(SHAPE), 3)
    save_model(model, folder / "plain", 4_000)
    variant, settings = Variant(name="int4", method="rtn", group_size=32), CompressConfig()
    stored = StoredModel(folder / "plain")
    compress_blocks(stored, None, variant, settings, folder / "work", lambda _: None)
    assemble(stored, variant, folder / "work", folder / "integers")
    files = [path for name in ("plain", "integers") for path in (folder / name).iterdir()]
    sound = {path: path.read_bytes() for path in files}
    touched: list[Path] = []

    def mutate(draw: random.Random) -> Read:
        while touched:
            path = touched.pop()
            path.write_bytes(sound[path])
        path = draw.choice([path for path in files if path.suffix == ".json" or draw.random() < 0.3])
        touched.append(path)
        if path.suffix == ".json":
            path.write_bytes(damaged_json(draw, json.loads(sound[path])))
        else:
            size = struct.unpack_from("<Q", sound[path])[0]
            header, data = json.loads(sound[path][8 : 8 + size]), sound[path][8 + size :]
            path.write_bytes(damaged_safetensors(draw, header, data))
        if path.parent.name == "integers":
            return lambda: [None, load_compressed(folder / "integers")][0]
        return lambda: [None, StoredModel(folder / "plain"), load_model(folder / "plain")][0]

    return mutate


TARGETS: dict[str, Callable[[Path], Mutate]] = {
    "gguf": gguf_target, "safetensors": safetensors_target, "manifest": manifest_target, "model": model_target,
}  # fmt: skip


def _write_gguf(folder: Path, name: str, most_bytes: int) -> list[Path]:
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama", split_max_size=most_bytes)
    writer.add_context_length(16)
    writer.add_token_list(["<unk>", "<s>", "a", "\u00e9"])
    writer.add_token_types([2, 3, 1, 1])
    writer.add_token_scores([0.0, -1.0, -2.0, -3.0])
    writer.add_chat_template("{{ x }}")
    writer.add_custom_alignment(32)
    writer.add_bool("flag", True)
    writer.add_array("numbers", [1, 2, 3])
    for kind, add in (("u8", writer.add_uint8), ("i64", writer.add_int64), ("f64", writer.add_float64)):
        add(kind, 7)
    for number, kind in enumerate(("F32", "F16", "BF16", "Q8_0", "Q4_0")):
        of_kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(np.ones((4, 64), np.float32), of_kind)
        writer.add_tensor(f"blk.{number}.ffn_up.weight", data, raw_dtype=of_kind)
    writer.add_tensor("output_norm.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob(f"{name}*.gguf"))


def _tensors_of(path: Path) -> list[Any]:
    return [type("Place", (), {"start": tensor.data_offset}) for tensor in gguf.GGUFReader(path).tensors]


def _compare_with_gguf_py(ours: GgufFile) -> None:
    """A file that we take for whole must hold for gguf-py what it holds for us."""
    theirs = [tensor for part in ours.parts for tensor in gguf.GGUFReader(part).tensors]
    assert list(ours.tensors) == [tensor.name for tensor in theirs]
    for tensor in theirs:
        mine = ours.tensors[tensor.name]
        assert (mine.type, mine.start, mine.shape) == (
            tensor.tensor_type, tensor.data_offset, tuple(reversed(tensor.shape.tolist())),
        )  # fmt: skip
        assert mine.data().tobytes() == tensor.data.tobytes()


def main() -> None:
    """Run a range of cases of one target."""
    target, seed, first, count, folder = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    torch.set_num_threads(1)
    mutate = TARGETS[target](folder)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    under_way = os.open(folder / "case", os.O_CREAT | os.O_WRONLY)
    counts = {"answered": 0, "refused": 0}
    start, slowest = time.monotonic(), 0.0
    for number in range(first, first + count):
        os.pwrite(under_way, b"%20d" % number, 0)
        began = time.monotonic()
        outcome = run_case(mutate, target, seed, number)
        slowest = max(slowest, time.monotonic() - began)
        if outcome.kind in counts:
            counts[outcome.kind] += 1
        else:
            print(json.dumps({"case": number, "kind": outcome.kind, "where": outcome.where}), flush=True)
    seconds = time.monotonic() - start
    print(json.dumps({"counts": counts, "seconds": seconds, "slowest_seconds": slowest}), flush=True)


if __name__ == "__main__":
    main()
