"""A decoder in ONNX Runtime: what is read in pieces, and files that are none."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from slm.core.errors import DamagedError, UserError
from slm.serve.onnx_runtime import OnnxRuntime

IDS = [1, 70, 80, 90, 100, 110, 120]


@pytest.fixture(scope="module")
def folder(places: dict[str, str]) -> Path:
    return Path(places["onnx"]).parent


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "onnx")) / "model.onnx"


def one_node(
    path: Path, inputs: list[str], outputs: list[str], kind: int = TensorProto.FLOAT, width: int | str = 2
) -> Path:
    """A graph with given names that adds up nothing."""
    shape = ["batch_size", 1, "length", width]
    nodes = [helper.make_node("Identity", [inputs[0]], [name]) for name in outputs]
    values = ([helper.make_tensor_value_info(name, kind, shape) for name in names] for names in (inputs, outputs))
    model = helper.make_model(
        helper.make_graph(nodes, "none", *values), opset_imports=[helper.make_opsetid("", 23)], ir_version=11
    )
    onnx.save(model, path)
    return path


def test_only_the_last_token_gets_logits_unless_all_are_asked_for(folder: Path) -> None:
    model = OnnxRuntime(folder / "model.onnx", threads=1)
    all_TV, past = model.read(IDS, model.empty(), all_logits=True)
    last_1V, _ = model.read(IDS, model.empty())
    assert (len(all_TV), len(last_1V), past.length) == (len(IDS), 1, len(IDS))
    np.testing.assert_allclose(last_1V[0], all_TV[-1], atol=1e-5)


def test_a_cache_serves_more_than_one_continuation(folder: Path) -> None:
    model = OnnxRuntime(folder / "model.onnx", threads=1)
    _, past = model.read(IDS[:4], model.empty())
    first, _ = model.read(IDS[4:], past)
    other, _ = model.read([50, 51], past)
    again, longer = model.read(IDS[4:], past)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert (past.length, longer.length) == (4, len(IDS))


def test_a_file_whose_matrices_are_gone_or_cut_off_is_named(copied: Path) -> None:
    data = copied.with_name("model.onnx_data")
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(DamagedError, match=r"model\.onnx cannot be run by ONNX Runtime \(.*bring its model\.onnx_data"):
        OnnxRuntime(copied, threads=1)
    data.unlink()
    with pytest.raises(DamagedError, match=r"model\.onnx cannot be run by ONNX Runtime"):
        OnnxRuntime(copied, threads=1)


@pytest.mark.parametrize("cut", [0, 1, 100, 5000])
def test_a_damaged_graph_is_one_sentence(copied: Path, cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    copied.write_bytes(copied.read_bytes()[:cut] + b"\xff" * 40)
    with pytest.raises(DamagedError, match="cannot be run by ONNX Runtime") as raised:
        OnnxRuntime(copied, threads=1)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_bytes_changed_anywhere_end_in_a_sentence_or_run(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, generator, refused = copied.read_bytes(), random.Random(3), list[str]()
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(generator.choice((1, 2, 5))):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        copied.write_bytes(changed)
        try:
            model = OnnxRuntime(copied, threads=1)
            model.read(IDS, model.empty())
        except UserError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert not [text for text in refused if "\n" in text]
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_is_no_decoder_with_a_cache_is_refused(tmp_path: Path) -> None:
    needed = ["input_ids", "attention_mask", "past_key_values.0.key"]
    results = ["logits", "present.0.key"]
    classifier = one_node(tmp_path / "classifier.onnx", ["pixels"], ["label"])
    with pytest.raises(UserError, match="is no decoder with a key-value cache: it has no input_ids; export it with"):
        OnnxRuntime(classifier, threads=1)
    without = one_node(tmp_path / "without.onnx", needed, results[:1])
    with pytest.raises(UserError, match=r"it has no present\.0\.key"):
        OnnxRuntime(without, threads=1)
    more = one_node(tmp_path / "more.onnx", [*needed, "pixels"], results)
    with pytest.raises(UserError, match="asks for pixels, which a decoder of text has no use for"):
        OnnxRuntime(more, threads=1)
    free = one_node(tmp_path / "free.onnx", needed, results, width="any")
    with pytest.raises(UserError, match=r"past_key_values\.0\.key has the shape \['batch_size', 1, 'length', 'any'\]"):
        OnnxRuntime(free, threads=1)
    half = one_node(tmp_path / "half.onnx", needed, results, TensorProto.FLOAT16)
    with pytest.raises(UserError, match=r"keeps its cache as tensor\(float16\), but float32 is needed"):
        OnnxRuntime(half, threads=1)


def test_an_engine_that_is_not_installed_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"model\.onnx needs ONNX Runtime, .* pip install 'slm\[onnx\]'"):
        OnnxRuntime(folder / "model.onnx", threads=1)
