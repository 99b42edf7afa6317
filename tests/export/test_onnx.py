"""ONNX files run by ONNX Runtime against the model, in one piece, in pieces and padded; and files that are damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_library
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from slm.compress.config import Variant
from slm.compress.files import read_integers
from slm.core.errors import DamagedError, UserError
from slm.export import onnx, run
from slm.export.config import ExportConfig
from slm.export.parity import Reference, prove
from slm.export.subject import Subject
from slm.recipe import Recipe
from slm.serve.onnx_runtime import OnnxRuntime

SubjectOf = Callable[..., Subject]
PROMPTS = ("def main():\n", "import os\n    ")
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 32}
SHAPES: dict[str, dict[str, object]] = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "qk_norm": {"qk_norm": True},
    "window": {"sliding_window": 6},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500_000.0},
    "one_kv_head": {"kv_heads": 1},
    "no_groups": {"kv_heads": 4, "norm_eps": 1e-3},
    "all": {"qk_norm": True, "sliding_window": 20, "rope_scaling": LLAMA3, "tie_embeddings": False, "head_dim": 24},
}  # fmt: skip


def logits_of(subject: Subject, ids: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.inference_mode():
        return subject.model(torch.tensor([ids]))[0].numpy()


@pytest.mark.parametrize("name", SHAPES)
def test_onnx_runtime_computes_what_the_model_does(
    subject_of: SubjectOf, export_config: ExportConfig, tmp_path: Path, name: str
) -> None:
    subject = subject_of(**SHAPES[name])
    written = onnx.write(subject, tmp_path, "onnx")
    reference = Reference(subject, export_config, PROMPTS)
    with onnx.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(reference, engine, export_config, "onnx", 1)
    assert found.max_delta == found.max_delta_vocabulary <= 2e-5
    assert found.greedy_equal == found.greedy_compared == len(PROMPTS)
    assert (found.quantity, found.budget) == ("log-probabilities, whole vocabulary", 1e-4)


@pytest.mark.parametrize("name", ["tied", "all"])
def test_8_bit_integers_cost_little(
    subject_of: SubjectOf, export_config: ExportConfig, tmp_path: Path, name: str
) -> None:
    subject = subject_of(**SHAPES[name])
    written = onnx.write(subject, tmp_path, "onnx_int8")
    plain = onnx.write(subject, tmp_path, "onnx")
    with onnx.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(Reference(subject, export_config, PROMPTS), engine, export_config, "onnx_int8", 1)
    assert 1e-4 < found.max_delta < 0.3
    assert found.mean_kl < 5e-3
    assert found.quantity == "log-probabilities, tokens of the text"
    assert written.facts["opsets"] == {"ai.onnx": 23, "com.microsoft": 1}
    sizes = [(path / "model.onnx_data").stat().st_size for path in (written.path, plain.path)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize(
    "variant",
    [
        Variant(name="asymmetric", method="rtn", group_size=32),
        Variant(name="symmetric", method="rtn", group_size=64, symmetric=True, outside_bits=4),
        Variant(name="rows", method="rtn", bits=3, group_size=0, outside_bits=16),
    ],
    ids=lambda variant: variant.name,
)
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_integers_of_a_variant_go_over_as_they_are(
    compressed: Callable[..., Subject], export_config: ExportConfig, tmp_path: Path, variant: Variant, name: str
) -> None:
    subject = compressed(variant, **SHAPES[name])
    assert subject.variant is not None
    written = onnx.write(subject, tmp_path, "onnx_int4")
    with onnx.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(Reference(subject, export_config, PROMPTS), engine, export_config, "onnx_int4", 1)
    assert found.max_delta < 0.15
    stored = {
        tensor.name: onnx_library.numpy_helper.to_array(tensor)
        for tensor in onnx_library.load(written.path / "model.onnx").graph.initializer
    }
    integers, plain = read_integers(subject.variant)
    for key, matrix in integers.items():
        assert np.array_equal(numbers(stored, key, matrix.grid.bits), matrix.dequantize().numpy())
    for key, tensor in plain.items():
        assert np.array_equal(stored[key], tensor.float().numpy())


def numbers(stored: dict[str, np.ndarray[Any, Any]], name: str, bits: int) -> np.ndarray[Any, Any]:
    """What MatMulNBits' documentation says that a matrix's bytes stand for, [O, I]."""

    def unpacked(packed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if bits > 4:
            return packed
        return np.stack([packed % 16, packed // 16], axis=-1).reshape(*packed.shape[:-1], -1)

    values_OGS, scales_OG = unpacked(stored[name]).astype(np.float32), stored[f"{name}.scales"]
    zeros_OG: Any = 128 if bits > 4 else 8
    if f"{name}.zeros" in stored:
        zeros_OG = unpacked(stored[f"{name}.zeros"])[:, : scales_OG.shape[1]].astype(np.float32)[..., None]
    return ((values_OGS - zeros_OG) * scales_OG[..., None]).reshape(len(values_OGS), -1)


def test_a_variant_that_needs_more_bits_is_refused(compressed: Callable[..., Subject], tmp_path: Path) -> None:
    subject = compressed(Variant(name="int8", method="rtn", bits=8, group_size=0))
    with pytest.raises(UserError, match=r"export\.variant \(int8\) has 8 bits, but onnx_int4 holds 4; name a variant"):
        onnx.write(subject, tmp_path, "onnx_int4")


@pytest.mark.parametrize("kind", ["onnx", "onnx_int8"])
@pytest.mark.parametrize("name", ["tied", "all"])
def test_a_row_cut_anywhere_gives_the_logits_of_the_whole(
    subject_of: SubjectOf, tmp_path: Path, name: str, kind: str
) -> None:
    subject = subject_of(**SHAPES[name])
    model = OnnxRuntime(onnx.write(subject, tmp_path, kind).path / "model.onnx", threads=1)
    ids = np.random.default_rng(0).integers(6, 448, 30).tolist()
    whole_TV, _ = model.read(ids, model.empty(), all_logits=True)
    expected_TV = logits_of(subject, ids) if kind == "onnx" else whole_TV.copy()
    for cut in range(1, len(ids)):
        first_TV, past = model.read(ids[:cut], model.empty(), all_logits=True)
        second_TV, past = model.read(ids[cut:], past, all_logits=True)
        assert past.length == len(ids)
        np.testing.assert_allclose(np.concatenate([first_TV, second_TV]), expected_TV, atol=1e-5)
    past = model.empty()
    for token, expected_V in zip(ids, expected_TV, strict=True):
        logits_1V, past = model.read([token], past)
        np.testing.assert_allclose(logits_1V[0], expected_V, atol=1e-5)


@pytest.mark.parametrize("name", ["tied", "all"])
@pytest.mark.parametrize("opened", [onnxruntime.InferenceSession, ReferenceEvaluator])
def test_rows_padded_on_the_left_are_as_alone_and_padding_stays_finite(
    subject_of: SubjectOf, tmp_path: Path, name: str, opened: type
) -> None:
    """In ONNX Runtime and by onnx's own reference, which does what the operators' definitions say and nothing else."""
    subject = subject_of(**SHAPES[name])
    session = opened(str(onnx.write(subject, tmp_path, "onnx").path / "model.onnx"))
    rows = [[1, 70, 80, 90, 100, 110, 120, 130, 140], [1, 71, 81]]
    padding = [0, 6]
    past = {
        f"past_key_values.{layer}.{part}": np.zeros((2, 2, 0, subject.model.config.head_dim), np.float32)
        for layer in (0, 1)
        for part in ("key", "value")
    }
    mask = np.array([[0] * before + [1] * len(row) for before, row in zip(padding, rows, strict=True)])
    ids = np.array([[0] * before + row for before, row in zip(padding, rows, strict=True)])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    found = []
    for start, stop in ((0, 7), (7, 9)):
        fed = {
            "input_ids": ids[:, start:stop],
            "attention_mask": mask[:, :stop],
            "position_ids": positions[:, start:stop],
            "num_logits_to_keep": np.zeros(1, np.int64),
        }
        logits_BTV, *present = session.run(None, fed | past)
        past = dict(zip(past, present, strict=True))
        found.append(logits_BTV)
    logits_BTV = np.concatenate(found, axis=1)
    assert np.isfinite(logits_BTV).all()
    for row, before, logits_TV in zip(rows, padding, logits_BTV, strict=True):
        np.testing.assert_allclose(logits_TV[before:], logits_of(subject, row), atol=1e-5)


def test_positions_beyond_the_trained_length_go_on(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of(max_seq_len=16, rope_theta=100.0)
    model = OnnxRuntime(onnx.write(subject, tmp_path, "onnx").path / "model.onnx", threads=1)
    ids = np.random.default_rng(1).integers(6, 448, 600).tolist()
    logits_1V, _ = model.read(ids, model.empty())
    np.testing.assert_allclose(logits_1V[0], logits_of(subject, ids)[-1], atol=1e-4)


def test_the_file_says_what_it_is_and_keeps_the_matrices_beside_it(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of(tie_embeddings=False)
    written = onnx.write(subject, tmp_path, "onnx")
    assert written.facts["opsets"] == {"ai.onnx": 23}
    assert written.facts["producer"].startswith("slm ")
    assert written.facts["inputs"]["past_key_values.N.key"] == ["batch_size", 2, "past_sequence_length", 16]
    assert written.facts["outputs"]["logits"] == ["batch_size", "kept_sequence_length", 448]
    graph_bytes = (written.path / "model.onnx").stat().st_size
    data = (written.path / "model.onnx_data").read_bytes()
    numbers = sum(tensor.numel() for tensor in subject.model.state_dict().values() if tensor.dim() == 2)
    assert graph_bytes < 20_000
    assert 4 * numbers <= len(data) < 4 * numbers + 4096 * 17
    model = onnx_library.load(written.path / "model.onnx")
    stored = {tensor.name: onnx_library.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, tensor in subject.model.state_dict().items():
        assert np.array_equal(stored[name], tensor.numpy())
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert properties["license"] == "PSF-2.0"
    assert properties["slm.tokenizer"] == subject.tokenizer.hash
    again = onnx.write(subject, tmp_path / "again", "onnx").path
    assert [(again / file).read_bytes() for file in ("model.onnx", "model.onnx_data")] == [
        (written.path / file).read_bytes() for file in ("model.onnx", "model.onnx_data")
    ]


def test_what_was_not_written_as_meant_is_found_when_read_back(subject_of: SubjectOf, tmp_path: Path) -> None:
    path = onnx.write(subject_of(), tmp_path, "onnx").path / "model.onnx"
    hashes = {
        tensor.name: hashlib.sha256(onnx_library.numpy_helper.to_array(tensor).tobytes()).hexdigest()
        for tensor in onnx_library.load(path).graph.initializer
        if len(tensor.dims) == 2
    }
    onnx.read_back(path, hashes)
    matrices = bytearray(path.with_name("model.onnx_data").read_bytes())
    matrices[70_000] ^= 1
    path.with_name("model.onnx_data").write_bytes(matrices)
    with pytest.raises(DamagedError, match=r"model\.onnx: embedding\.weight read back differs; check the disk"):
        onnx.read_back(path, hashes)
    broken = onnx_library.load(path, load_external_data=False)
    broken.graph.node[0].op_type = "Shapes"
    path.write_bytes(broken.SerializeToString())
    with pytest.raises(DamagedError, match=r"model\.onnx is not what onnx accepts \(.*Shapes"):
        onnx.read_back(path, hashes)


def test_a_model_with_nan_is_refused(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of()
    with torch.no_grad():
        subject.model.blocks[0].ffn.up.weight[0, 0] = float("nan")
    with pytest.raises(DamagedError, match=r"blocks\.0\.ffn\.up\.weight holds NaN or infinity"):
        onnx.write(subject, tmp_path, "onnx")


def onnx_alone(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"export": recipe.export.model_copy(update={"formats": ("onnx",)})})


def test_a_run_publishes_the_proof_and_what_the_file_asks_for(run_recipe: Recipe) -> None:
    artifact = run(onnx_alone(run_recipe))
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/tokenizer.json", "onnx/config.json"} < set(
        artifact.manifest["files"]
    )
    found = artifact.counts["parity"]["onnx"]
    assert found["max_delta"] <= 1e-4
    assert found["facts"]["inputs"]["position_ids"] == ["batch_size", "sequence_length"]
    files = [artifact.file(name) for name in artifact.manifest["files"] if name.startswith("onnx/")]
    assert found["size_bytes"] == sum(file.stat().st_size for file in files)


def test_a_disk_that_fills_publishes_nothing(run_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx, "data_path", lambda _: Path("/dev/full"))
    with pytest.raises(UserError, match=r"the disk filled up while writing .*export"):
        run(onnx_alone(run_recipe))
    assert {path.name for path in run_recipe.folder("export").parent.iterdir()} == {"corpus", "tokenizer", "train"}
