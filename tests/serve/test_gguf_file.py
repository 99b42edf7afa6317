"""Our reader of GGUF files: what gguf-py wrote is read alike, what is malformed is refused by its reason."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as TensorType

from slm.core.errors import DamagedError, UserError
from slm.serve import gguf_file
from slm.serve.gguf_file import read_gguf
from slm.serve.llama_backend import describe
from slm.serve.llama_cpp import LlamaCpp, control_tokens

TOKENS = ["<unk>", "<s>", "a", "é"]


def write(folder: Path, *, most_bytes: int = 0) -> list[Path]:
    """A file of five types, in parts of about `most_bytes` if that is not 0; returns its paths."""
    writer = gguf.GGUFWriter(folder / "a.gguf", "llama", split_max_size=most_bytes)
    writer.add_context_length(64)
    writer.add_token_list(TOKENS)
    writer.add_token_types([2, 3, 1, 1])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_bool("yes", True)
    draw = np.random.default_rng(0)
    for kind in ("F32", "F16", "BF16", "Q8_0", "Q4_0"):
        values = draw.normal(size=(3, 64)).astype(np.float32)
        data = gguf.quants.quantize(values, TensorType[kind])
        writer.add_tensor(kind, data, raw_dtype=TensorType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("a*.gguf"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path)[0]


def test_a_file_is_read_as_gguf_py_reads_it(path: Path) -> None:
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.tensors[tensor.name].type == tensor.tensor_type
        assert ours.tensors[tensor.name].shape == (3, 64)
        assert np.array_equal(ours.tensors[tensor.name].data(), tensor.data)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    metadata = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in ours.metadata.items()
    }
    assert metadata == fields
    assert ours.size_bytes == path.stat().st_size
    assert describe(path) == (64, False, False)
    assert control_tokens(path) == ("<s>",)


def test_parts_are_read_as_the_whole(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    parts, whole = write(tmp_path, most_bytes=600), read_gguf(write(tmp_path / "one")[0])
    assert [part.name for part in parts[:2]] == [f"a-0000{n}-of-0000{len(parts)}.gguf" for n in (1, 2)]
    found = read_gguf(parts[0])
    assert found.parts == tuple(parts)
    assert found.size_bytes == sum(part.stat().st_size for part in parts)
    assert list(found.tensors) == list(whole.tensors)
    assert all(np.array_equal(found.tensors[name].data(), whole.tensors[name].data()) for name in whole.tensors)
    with pytest.raises(
        UserError, match=rf"is a part of a model in {len(parts)} files; give the first, named NAME-00001"
    ):
        read_gguf(parts[1])
    renamed = parts[0].rename(tmp_path / "b.gguf")
    with pytest.raises(UserError, match="give the first"):
        read_gguf(renamed)


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    parts = write(tmp_path, most_bytes=600)
    second = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(DamagedError, match=r"is not part 2 of \d of a-00001"):
        read_gguf(parts[0])
    parts[1].write_bytes(second)
    parts[-1].unlink()
    with pytest.raises(UserError, match=f"there is no file .*{parts[-1].name}"):
        read_gguf(parts[0])


def put(form: str, number: int, at: int) -> Callable[[bytes], bytes]:
    """Overwrite a number at a place."""
    return lambda content: content[:at] + struct.pack(form, number) + content[at + struct.calcsize(form) :]


def after(mark: bytes, form: str, number: int, skip: int = 0) -> Callable[[bytes], bytes]:
    """Overwrite the number that stands `skip` bytes behind a mark."""
    return lambda content: put(form, number, content.index(mark) + len(mark) + skip)(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (put("<I", 1, 4), "version 1 is none of 2, 3"),
        (put(">I", 3, 4), "version 50,331,648 is none of"),
        (put("<Q", 1 << 62, 8), "4,611,686,018,427,387,904 tensors do not fit into its"),
        (put("<Q", 1 << 40, 16), "1,099,511,627,776 metadata entries do not fit"),
        (put("<Q", (1 << 64) - 1, 24), "it ends inside a metadata key"),
        (after(b"yes", "<I", 99), r"the type of yes \(99\) is unknown"),
        (after(b"floats", "<I", 9, 4), "floats is an array of arrays"),
        (after(b"floats", "<I", 77, 4), r"the type of the entries of floats \(77\) is unknown"),
        (after(b"floats", "<Q", 1 << 60, 8), "entries of floats do not fit"),
        (after(b"tokenizer.ggml.tokens", "<Q", 1 << 50, 8), "texts of tokenizer.ggml.tokens do not fit"),
        (after(b"tokenizer.ggml.tokens", "<Q", 1 << 33, 16), "it ends inside tokenizer.ggml.tokens"),
        (lambda content: content.replace(b"yes", b"y\xff\xfe"), "a metadata key is not UTF-8"),
        (lambda content: content.replace(b"BF16", b"Q8_0"), "tensor Q8_0 is there twice"),
        (after(b"BF16", "<I", 5), "tensor BF16 has 5 dimensions instead of 1 to 4"),
        (after(b"BF16", "<I", 0), "tensor BF16 has 0 dimensions"),
        (after(b"Q4_0", "<Q", 33, 4), r"tensor Q4_0 of shape \[3, 33\] does not fall into blocks of 32"),
        (after(b"Q4_0", "<Q", 1 << 50, 12), r"bytes, but its tensors end at"),
        (after(b"Q4_0", "<Q", 0, 12), r"tensor Q4_0 of shape \[0, 64\] does not fall into blocks"),
        (after(b"Q4_0", "<I", 4, 20), r"the type of tensor Q4_0 \(4\) is unknown"),
        (after(b"F16", "<Q", 0, 24), "tensor F16 begins at 0 instead of 768 bytes behind the header"),
        (after(b"Q4_0", "<Q", 1 << 40, 24), "tensor Q4_0 begins at 1,099,511,627,776 instead of"),
        (lambda content: content[:-40], r"bytes, but its tensors end at"),
        (lambda content: content[:200], "it ends inside"),
        (lambda content: content[:15], "it ends inside the number of tensors"),
    ],
)
def test_what_is_malformed_is_refused_before_anything_is_made_of_it(
    path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert path.read_bytes() != sound
    for read in (read_gguf, describe, control_tokens, LlamaCpp):
        with pytest.raises(DamagedError, match=rf"a\.gguf is not readable as a GGUF file \(.*{reason}") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_key_that_is_there_twice_and_an_odd_alignment_are_refused(tmp_path: Path) -> None:
    pair = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<I", 4)
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    (tmp_path / "twice.gguf").write_bytes(head + (pair + struct.pack("<I", 32)) * 2)
    with pytest.raises(DamagedError, match=r"\(general\.alignment is there twice\)"):
        read_gguf(tmp_path / "twice.gguf")
    signed = struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<Ii", 5, 32)
    (tmp_path / "signed.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + signed)
    with pytest.raises(DamagedError, match=r"\(general\.alignment is no 32-bit number\)"):
        read_gguf(tmp_path / "signed.gguf")
    for align in (0, 33, (1 << 32) - 1):
        one = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair + struct.pack("<I", align)
        (tmp_path / "odd.gguf").write_bytes(one)
        with pytest.raises(DamagedError, match=rf"\(general\.alignment \({align}\) is no power of two\)"):
            read_gguf(tmp_path / "odd.gguf")


def test_a_name_longer_than_ggml_keeps_is_refused(tmp_path: Path) -> None:
    tensor = struct.pack("<Q", 64) + b"n" * 64 + struct.pack("<IQIQ", 1, 32, 0, 0)
    (tmp_path / "long.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor + bytes(300))
    with pytest.raises(DamagedError, match=r"the name of tensor n{20}\.\.\. is longer than 63 bytes"):
        read_gguf(tmp_path / "long.gguf")


def test_a_header_is_never_read_beyond_its_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "MOST_HEADER_BYTES", 256)
    with pytest.raises(DamagedError, match="is not readable as a GGUF file"):
        read_gguf(path)


@pytest.mark.parametrize("content", [b"", b"GG", b"hello world"])
def test_what_is_no_gguf_at_all_is_told_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.gguf is not a GGUF file \(it starts with {re.escape(repr(content[:4]))}"):
        read_gguf(tmp_path / "x.gguf")


def test_metadata_that_make_no_sense_are_refused_where_they_are_needed(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_string("llama.context_length", "long")
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(DamagedError, match=r"does not say how long a text it is meant for \(llama\.context_length\)"):
        describe(tmp_path / "a.gguf")
    with pytest.raises(DamagedError, match="has no vocabulary with a type for each of its tokens"):
        control_tokens(tmp_path / "a.gguf")
