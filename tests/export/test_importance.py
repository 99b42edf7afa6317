"""The importance of columns: the mean squares of what matrices read, in llama.cpp's file, heeded by its quantizers."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import gguf as gguf_library
import numpy as np
import pytest
import torch
from torch import Tensor

from slm.compress.calibration import Rows
from slm.compress.layers import MATRICES
from slm.core.errors import UserError
from slm.export import gguf, importance, run
from slm.export.config import Quality
from slm.export.gguf_types import KINDS
from slm.export.importance import Importance, observe
from slm.export.subject import Subject
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from tests.tiny_run import tiny_recipe, train, write_source

ModelOf = Callable[..., Transformer]
SubjectOf = Callable[..., Subject]
WIDE = {"width": 256, "head_dim": 64, "ffn_width": 256}


def rows_of(vocab_size: int, rows: int = 6, length: int = 24) -> Rows:
    """Random rows of two documents each, the last tokens of every second one padding."""
    draw = torch.Generator().manual_seed(4)
    tokens_NT = torch.randint(0, vocab_size, (rows, length), generator=draw)
    documents_NT = (torch.arange(length) >= 10).long().expand(rows, length).clone()
    documents_NT[::2, 20:] = -1
    positions_NT = torch.cat([torch.arange(10), torch.arange(length - 10)]).expand(rows, length)
    return Rows(tokens_NT, documents_NT, positions_NT, "c" * 64)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
def test_it_is_the_mean_square_of_what_each_matrix_reads(changes: dict[str, object], model_of: ModelOf) -> None:
    model, rows = model_of(**changes), rows_of(448)
    found = observe(model, rows, 4)
    head = "head.weight" if changes else "embedding.weight"
    names = {f"blocks.{layer}.{name}.weight" for layer in (0, 1) for name in MATRICES}
    assert set(found.squares) == {*names, head}
    assert found.of("norm.weight") is None
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    for name in names:
        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[0]))
    with torch.inference_mode():
        text = rows.documents_NT >= 0
        last = model.hidden(rows.tokens_NT, positions_BT=rows.positions_NT, documents_BT=rows.documents_NT)[text]
    for name in names:
        expected = seen[name][0][text].double().square().mean(0)
        np.testing.assert_allclose(found.of(name), expected, rtol=2e-5)
    np.testing.assert_allclose(found.of(head), last.double().square().mean(0), rtol=2e-5)
    assert found.tokens == int(text.sum()) == 6 * 24 - 3 * 4


def test_the_file_holds_it_in_llama_cpps_form(model_of: ModelOf, tmp_path: Path) -> None:
    found = observe(model_of(), rows_of(448), 8)
    path = importance.write(found, gguf.gguf_name, tmp_path)
    reader = gguf_library.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (6, 22)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == 2 * len(found.squares)
    for name, squares_I in found.squares.items():
        sums, counts = (tensors[f"{gguf.gguf_name(name)}.{part}"] for part in ("in_sum2", "counts"))
        assert sums.shape == (1, len(squares_I))
        assert np.array_equal(sums[0] / counts[0], found.of(name))


@pytest.mark.parametrize("name", [name for name in KINDS if name.startswith("gguf_q")])
def test_columns_that_are_read_large_err_less_in_a_weighed_file(
    name: str, subject_of: SubjectOf, tmp_path: Path
) -> None:
    plain = subject_of(**WIDE)
    draw = np.random.default_rng(0)
    squares = {
        key: np.where(draw.random(tensor.shape[1]) < 0.1, 100, 0.1).astype(np.float32)
        for key, tensor in plain.model.state_dict().items()
        if tensor.dim() == 2
    }
    errors = []
    for label, weights in (("plain", None), ("weighed", Importance(squares, 1, 1, "c" * 64))):
        subject = Subject("x", plain.model, plain.tokenizer, plain.checkpoint, importance=weights)
        (tmp_path / label).mkdir()
        found = {
            tensor.name: gguf_library.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in gguf_library.GGUFReader(gguf.write(subject, tmp_path / label, name).path).tensors
        }
        errors.append(0.0)
        for key in ("blocks.0.ffn.up.weight", "blocks.1.attention.o.weight", "blocks.1.ffn.down.weight"):
            difference = found[gguf.gguf_name(key)] - plain.model.state_dict()[key].numpy()
            errors[-1] += float((np.square(difference) * squares[key]).sum())
    if name == "gguf_q8_0":  # ggml's rounds to nearest, whatever the weights
        assert errors[0] == errors[1]
    else:
        assert errors[1] < 0.9 * errors[0]


def test_a_weighed_file_says_so_and_one_that_keeps_the_numbers_does_not(subject_of: SubjectOf, tmp_path: Path) -> None:
    plain = subject_of(**WIDE)
    found = observe(plain.model, rows_of(448), 8)
    subject = Subject("x", plain.model, plain.tokenizer, plain.checkpoint, importance=found)
    fields = gguf_library.GGUFReader(gguf.write(subject, tmp_path, "gguf_q4_k_m").path).fields
    assert fields["quantize.imatrix.dataset"].contents() == "calibration " + "c" * 64
    assert fields["quantize.imatrix.entries_count"].contents() == len(found.squares)
    assert b"quantize.imatrix" not in gguf.write(subject, tmp_path, "gguf_f32").path.read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    base = tmp_path_factory.mktemp("importance")
    draw = random.Random(5)
    words = "def return import self None for in range yield class == != lambda ( ) : , .".split()  # noqa: SIM905
    source = write_source(base, "code", [" ".join(draw.choices(words, k=draw.randint(20, 90))) for _ in range(160)])
    changes = {"tokenizer": {"vocab_size": 320}, "model": {"vocab_size": 320}}
    return train(tiny_recipe(base, [source], "one", **changes))


def test_the_stage_weighs_by_the_calibration_text_and_publishes_the_matrix(trained: Recipe) -> None:
    section = {"imatrix": True, "formats": ("gguf_f32", "gguf_q4_0"), "greedy_tokens": 4, "max_positions": 4}
    section["quality"] = Quality(documents=0)
    export = trained.export.model_copy(update={**section, "prompts": ("def f1(x):",), "max_logprob_delta_q4": 9.0})
    calibration = trained.compress.calibration.model_copy(update={"tokens": 512})
    compress = trained.compress.model_copy(update={"calibration": calibration})
    recipe = trained.model_copy(update={"export": export, "compress": compress})
    made = run(recipe)
    assert made.counts["imatrix"]["rows"] == 16
    assert set(made.manifest["parents"]) == {"train", "tokenizer", "shards"}
    stored = gguf_library.GGUFReader(made.file("imatrix.gguf"))
    counts = {float(tensor.data[0, 0]) for tensor in stored.tensors if tensor.name.endswith(".counts")}
    assert counts == {made.counts["imatrix"]["tokens"]}
    assert b"quantize.imatrix" in made.file("model-q4_0.gguf").read_bytes()
    other = compress.model_copy(update={"calibration": calibration.model_copy(update={"tokens": 256})})
    with pytest.raises(UserError, match=r"calibration\.tokens: 512 -> 256"):
        run(recipe.model_copy(update={"compress": other}))
