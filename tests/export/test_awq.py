"""AutoAWQ's layout: written as the format says, word by word, and read back to the integers' own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.compress.assemble import assemble
from slm.compress.config import CompressConfig, Variant
from slm.compress.files import load_compressed, read_integers
from slm.compress.stream import StoredModel, compress_blocks
from slm.core.errors import DamagedError, UserError
from slm.export import awq
from slm.export.config import ExportConfig
from slm.export.parity import Reference, prove
from slm.export.subject import Subject
from slm.model.config import ModelConfig
from slm.model.load import save_model

SubjectOf = Callable[..., Subject]
PROMPTS = ("def main():\n", "import os\n    ")


@pytest.fixture
def compressed(subject_of: SubjectOf, tmp_path: Path) -> Callable[..., Subject]:
    """A small model in integers: plain rounding, for what is tested is the layout."""

    def make(variant: Variant | None = None, **changes: object) -> Subject:
        variant = variant or Variant(name="int4", method="rtn", group_size=32)
        subject = subject_of(**changes)
        save_model(subject.model, tmp_path / "checkpoint")
        model, folder = StoredModel(tmp_path / "checkpoint"), tmp_path / variant.name
        config = CompressConfig(variants=(variant,), on_misfit="next")
        compress_blocks(model, None, variant, config, tmp_path / "work", lambda _: None)
        assemble(model, variant, tmp_path / "work", folder)
        return replace(subject, model=load_compressed(folder), variant=folder)

    return make


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
@pytest.mark.parametrize("symmetric", [False, True])
def test_transformers_computes_from_the_folder_what_the_integers_stand_for(
    compressed: Callable[..., Subject],
    changes: dict[str, object],
    symmetric: bool,
    tmp_path: Path,
    export_config: ExportConfig,
) -> None:
    subject = compressed(Variant(name="int4", method="rtn", group_size=32, symmetric=symmetric), **changes)
    reference = Reference(subject, export_config, PROMPTS)
    written = awq.write(subject, tmp_path, "awq")
    with awq.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(reference, engine, export_config, "awq", 1)
    assert 0 < found.max_delta <= 1e-2
    assert found.quantity == "logits, whole vocabulary"
    content = json.loads((written.path / "config.json").read_text())
    assert content["quantization_config"] == {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32, "zero_point": True,
        "modules_to_not_convert": ["lm_head"] if changes else None,
    }  # fmt: skip
    assert content["dtype"] == "float16"


def test_each_nibble_is_where_the_format_has_it(compressed: Callable[..., Subject], tmp_path: Path) -> None:
    subject = compressed()
    assert subject.variant is not None
    stored = load_file(awq.write(subject, tmp_path, "awq").path / "model.safetensors")
    found = read_integers(subject.variant)[0]["blocks.1.ffn.down.weight"]
    outputs, inputs = found.values_OI.shape
    stem = "model.layers.1.mlp.down_proj"
    words = stored[f"{stem}.qweight"].numpy().view("uint32")
    zeros = stored[f"{stem}.qzeros"].numpy().view("uint32")
    assert words.shape == (inputs, outputs // 8)
    assert torch.equal(stored[f"{stem}.scales"], found.scales_OG.T)
    shift_of_output = {0: 0, 1: 16, 2: 4, 3: 20, 4: 8, 5: 24, 6: 12, 7: 28}  # as AutoAWQ's unpacking kernel has it
    for i in range(0, inputs, 7):
        for o in range(outputs):
            shift = shift_of_output[o % 8]
            assert (int(words[i, o // 8]) >> shift) & 15 == int(found.values_OI[o, i])
            assert (int(zeros[i // 32, o // 8]) >> shift) & 15 == int(found.zeros_OG[o, i // 32])


def test_words_keep_every_integer() -> None:
    values = torch.randint(0, 16, (5, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(awq.unpack_words(awq.pack_words(values)), values)
    assert awq.pack_words(torch.full((1, 8), 15, dtype=torch.uint8)).tolist() == [[-1]]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(name="int8", method="rtn", bits=8, group_size=0), r"export\.variant \(int8\) has 8 bits"),
        (Variant(name="mixed", method="rtn", group_size=64), r"groups of 32, 64, but AutoAWQ's form has one size"),
    ],
)
def test_integers_that_the_form_cannot_hold_are_refused(
    compressed: Callable[..., Subject], variant: Variant, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        awq.write(compressed(variant), tmp_path, "awq")


def test_widths_that_do_not_fill_words_are_refused() -> None:
    config = ModelConfig(width=36, heads=3, kv_heads=3, head_dim=12, ffn_width=96)
    with pytest.raises(UserError, match=r"model\.width \(36\) must be a multiple of 8"):
        awq.refuse_unsupported(config)


def test_a_folder_that_lost_its_scales_is_named(compressed: Callable[..., Subject], tmp_path: Path) -> None:
    folder = awq.write(compressed(), tmp_path, "awq").path
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DamagedError, match=r"lacks model\.layers\.0\.mlp\.up_proj\.scales"):
        awq.dequantized(folder)
