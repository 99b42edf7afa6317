import errno
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf as gguf_library
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType as TensorType
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import DamagedError, UserError, is_disk_full
from slm.export import gguf
from slm.export.gguf import Entry
from slm.export.gguf_types import KINDS
from slm.export.subject import Subject
from slm.model.config import ModelConfig
from slm.model.rope import frequencies
from slm.model.transformer import Transformer
from slm.serve.gguf_file import read_gguf
from slm.serve.llama_cpp import LlamaCpp

ModelOf = Callable[..., Transformer]
SubjectOf = Callable[..., Subject]
Matrix = npt.NDArray[np.float32]


def entry(values: Matrix, kind: TensorType) -> Entry:
    return Entry("x", "blocks.0.ffn.up.weight", torch.from_numpy(values), kind)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
def test_every_tensor_has_a_name_of_its_own_that_llama_cpp_knows(changes: dict[str, object], model_of: ModelOf) -> None:
    names = [gguf.gguf_name(name) for name in model_of(**changes).state_dict()]
    kind = gguf_library.MODEL_ARCH.QWEN3 if changes else gguf_library.MODEL_ARCH.LLAMA
    known = {
        f"{stem.format(bid=block)}.weight"
        for block in range(2)
        for stem in (gguf_library.TENSOR_NAMES[tensor] for tensor in gguf_library.MODEL_TENSORS[kind])
    }
    assert len(set(names)) == len(names)
    assert set(names) <= known


@pytest.mark.parametrize("name", ["blocks.0.attention.q.bias", "blocks.0.router.weight", "value_head.weight"])
def test_a_tensor_without_a_name_in_llama_cpp_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"tensor {re.escape(name)} has no counterpart"):
        gguf.gguf_name(name)


@given(st.integers(1, 4), st.integers(1, 8))
def test_interleaving_puts_the_halves_of_each_head_beside_each_other(heads: int, half: int) -> None:
    rows_RD = torch.arange(heads * 2 * half, dtype=torch.float32)[:, None].expand(-1, 3)
    turned = gguf.interleave(rows_RD, 2 * half)[:, 0].reshape(heads, half, 2)
    first = torch.arange(heads)[:, None] * 2 * half + torch.arange(half)
    assert torch.equal(turned[..., 0], first.float())
    assert torch.equal(turned[..., 1], (first + half).float())


def test_only_llama_interleaves_and_only_q_and_k(model_of: ModelOf) -> None:
    for changes, expected in (({}, {"attn_q", "attn_k"}), ({"qk_norm": True}, set[str]())):
        model = model_of(**changes)
        plan = gguf.plan(model.state_dict(), model.config, KINDS["gguf_f32"])
        assert {item.name.split(".")[2] for item in plan if item.interleaved_head_dim} == expected


def test_a_number_beyond_f16_is_refused_and_the_last_one_in_it_is_not() -> None:
    values = np.full((1, 32), 65504, np.float32)
    assert np.array_equal(gguf.encode(entry(values, TensorType.F16)), values.astype(np.float16))
    values[0, 3] = -70000
    with pytest.raises(UserError, match=r"blocks\.0\.ffn\.up\.weight holds 70,000, but F16 ends at 65,504; leave"):
        gguf.encode(entry(values, TensorType.F16))
    assert gguf.encode(entry(values, TensorType.BF16)).size


@pytest.mark.parametrize("kind", [kind.tensors for kind in KINDS.values()])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_and_infinity_are_refused_by_name_in_every_type(kind: TensorType, bad: float) -> None:
    values = np.zeros((2, 256), np.float32)
    values[1, 5] = bad
    with pytest.raises(DamagedError, match=r"blocks\.0\.ffn\.up\.weight holds NaN or infinity"):
        gguf.encode(entry(values, kind))


def test_vectors_stay_f32_and_narrow_rows_become_f16_with_a_notice(subject_of: SubjectOf, tmp_path: Path) -> None:
    written = gguf.write(subject_of(ffn_width=88), tmp_path, "gguf_q8_0")
    types = {tensor.name: tensor.tensor_type for tensor in gguf_library.GGUFReader(written.path).tensors}
    assert types["blk.0.ffn_norm.weight"] == TensorType.F32
    assert types["blk.0.ffn_down.weight"] == types["blk.1.ffn_down.weight"] == TensorType.F16
    assert types["blk.0.ffn_up.weight"] == TensorType.Q8_0
    assert written.notices[0] == (
        "gguf_q8_0: blocks.0.ffn.down.weight and 1 more, with rows of 88, do not fall into its blocks and are stored "
        "as F16"
    )
    assert len(written.notices) == 1
    assert gguf.write(subject_of(), tmp_path, "gguf_q8_0").notices == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sliding_window": 16},
            r"model\.sliding_window \(16\) cannot go into a GGUF file, because llama\.cpp's llama",
        ),
        (
            {"qk_norm": True, "rope_scaling": {"kind": "llama3", "factor": 4}},
            r"model\.rope_scaling\.kind \(llama3\) cannot go into a GGUF file with model\.qk_norm=true",
        ),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gguf.refuse_unsupported(ModelConfig.model_validate(changes))


def test_a_window_as_long_as_the_context_is_no_window() -> None:
    gguf.refuse_unsupported(ModelConfig(max_seq_len=64, sliding_window=64))


def test_llama3_positions_travel_as_the_factors_of_metas_rule(model_of: ModelOf) -> None:
    changes = {"rope_scaling": {"kind": "llama3", "factor": 8, "original_max_seq_len": 32}, "head_dim": 64}
    model = model_of(**changes)
    config = model.config
    first = next(gguf.plan(model.state_dict(), config, KINDS["gguf_q8_0"]))
    assert (first.name, first.type) == ("rope_freqs.weight", TensorType.F32)
    expected = []
    for radians in frequencies(config.model_copy(update={"rope_scaling": None})).tolist():
        wave = 2 * math.pi / radians
        smooth = min(max((32 / wave - 1) / (4 - 1), 0), 1)
        expected.append(1 / ((1 - smooth) / 8 + smooth))
    np.testing.assert_allclose(first.values(), expected, rtol=3e-7)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_byte_changed_on_disk_is_noticed_when_read_back(name: str, subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of()
    path = gguf.write(subject, tmp_path, name).path
    entries = list(gguf.plan(subject.model.state_dict(), subject.model.config, KINDS[name]))
    gguf.read_back(path, entries)
    place = next(t for t in gguf_library.GGUFReader(path).tensors if t.name == "blk.1.ffn_up.weight").data_offset
    content = bytearray(path.read_bytes())
    content[place + 1] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"blk\.1\.ffn_up\.weight read back differs from blocks\.1\.ffn\.up\.weight"):
        gguf.read_back(path, entries)


def test_a_tensor_too_few_or_of_another_type_is_noticed_when_read_back(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of()
    path = gguf.write(subject, tmp_path, "gguf_f32").path
    state = subject.model.state_dict()
    entries = list(gguf.plan(state, subject.model.config, KINDS["gguf_f32"]))
    extra = Entry("output.weight", "head.weight", state["embedding.weight"], TensorType.F32)
    with pytest.raises(DamagedError, match=r"does not hold what was written \(output\.weight\); export again"):
        gguf.read_back(path, [*entries, extra])
    with pytest.raises(DamagedError, match=r"token_embd\.weight has another type or shape than was written"):
        gguf.read_back(path, list(gguf.plan(state, subject.model.config, KINDS["gguf_f16"])))


def test_a_short_write_is_reported_as_a_full_disk(
    subject_of: SubjectOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise OSError("4096 requested and 1024 written")

    monkeypatch.setattr(gguf_library.GGUFWriter, "write_tensor_data", short)
    with pytest.raises(OSError, match="No space left") as caught:
        gguf.write(subject_of(), tmp_path, "gguf_f32")
    assert is_disk_full(caught.value)


def test_another_failure_of_the_disk_stays_what_it_is(
    subject_of: SubjectOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(gguf_library.GGUFWriter, "write_tensor_data", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        gguf.write(subject_of(), tmp_path, "gguf_f32")
    assert not is_disk_full(caught.value)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
def test_what_was_written_comes_back_under_our_names(
    changes: dict[str, object], subject_of: SubjectOf, tmp_path: Path
) -> None:
    subject = subject_of(**changes)
    found = gguf.dequantized(gguf.write(subject, tmp_path, "gguf_f32").path, subject.model.config)
    state = subject.model.state_dict()
    assert list(found) == list(state)
    assert all(np.array_equal(found[name], state[name].numpy()) for name in state)
    other = subject.model.config.model_copy(update={"ffn_width": 64})
    with pytest.raises(DamagedError, match=r"model-f32\.gguf holds no blk\.0\.ffn_gate\.weight of shape \[64, 64\]"):
        gguf.dequantized(tmp_path / "model-f32.gguf", other)


def test_a_model_in_parts_is_the_whole_one_and_llama_cpp_opens_it_by_the_first(
    subject_of: SubjectOf, tmp_path: Path
) -> None:
    subject = subject_of()
    whole = gguf.write(subject, tmp_path, "gguf_q8_0").path
    (tmp_path / "parts").mkdir()
    small = replace(subject, max_gguf_bytes=40_000)
    first = gguf.write(small, tmp_path / "parts", "gguf_q8_0").path
    files = sorted((tmp_path / "parts").iterdir())
    assert [file.name for file in files] == [f"model-q8_0-0000{n}-of-0000{len(files)}.gguf" for n in (1, 2, 3)]
    assert first == files[0]
    one, many = read_gguf(whole), read_gguf(first)
    assert list(one.tensors) == list(many.tensors)
    assert all(np.array_equal(one.tensors[name].data(), many.tensors[name].data()) for name in one.tensors)
    for number, file in enumerate(files):
        reader = gguf_library.GGUFReader(file)
        facts = [reader.fields[f"split.{key}"].contents() for key in ("no", "count", "tensors.count")]
        assert facts == [number, len(files), len(one.tensors)]
        assert sum(int(tensor.n_bytes) for tensor in reader.tensors) <= 40_000
    said = []
    for path in (whole, first):
        with LlamaCpp(path, exact=True, threads=1) as llama:
            said.append(llama.logprobs([1, 20, 30]))
    assert np.array_equal(*said)
    assert gguf.write(replace(subject, max_gguf_bytes=10**9), tmp_path, "gguf_q8_0").path == whole
