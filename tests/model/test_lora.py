"""Adapters: nothing changes at first, only they are trained, files are peft's both ways, merging keeps the outputs."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.core.errors import DamagedError, UserError
from slm.model.config import LoraConfig, ModelConfig
from slm.model.four_bits import FourBits
from slm.model.hugging_face import save_pretrained
from slm.model.lora import Adapter, adapter_of, attach, detach, fresh, load_adapter, merge, save_adapter
from slm.model.transformer import Transformer, build

TOKENS_BT = torch.arange(24).view(2, 12) % 31
KINDS = {"lora": {}, "dora": {"dora": True}, "rslora": {"rslora": True}}


@pytest.fixture
def base(shape: Callable[..., ModelConfig]) -> Transformer:
    return build(shape(), seed=1)


def trained(model: Transformer, **changes: object) -> Adapter:
    """An adapter with numbers as after a training."""
    adapter = fresh(model, LoraConfig(**{"rank": 3, "alpha": 7, **changes}), seed=2)
    generator = torch.Generator().manual_seed(3)
    for parts in adapter.tensors.values():
        for part in ("b", "magnitude"):
            if part in parts:
                parts[part] += 0.3 * torch.randn(parts[part].shape, generator=generator)
    return adapter


@torch.no_grad()
def logits(model: Transformer) -> torch.Tensor:
    return model(TOKENS_BT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_changes_nothing_and_is_all_that_learns(base: Transformer, kind: str) -> None:
    before = logits(base)
    weights = {name: weight.clone() for name, weight in base.state_dict().items()}
    attach(base, fresh(base, LoraConfig(rank=4, **KINDS[kind]), seed=2))
    torch.testing.assert_close(logits(base), before, atol=2e-6, rtol=0)
    base(TOKENS_BT).square().sum().backward()
    learning = {name for name, parameter in base.named_parameters() if parameter.grad is not None}
    assert learning == {name for name, parameter in base.named_parameters() if parameter.requires_grad}
    assert learning == {name for name in base.state_dict() if name.rpartition(".")[2] in ("a", "b", "magnitude")}
    torch.optim.SGD([p for p in base.parameters() if p.requires_grad], lr=0.1).step()
    assert not torch.allclose(logits(base), before, atol=1e-3)
    detach(base)
    assert {name: bool((weight == weights[name]).all()) for name, weight in base.state_dict().items()} == dict.fromkeys(
        weights, True
    )
    assert all(parameter.requires_grad for parameter in base.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_merging_keeps_the_outputs(base: Transformer, kind: str) -> None:
    attach(base, trained(base, **KINDS[kind]))
    beside = logits(base)
    merge(base)
    torch.testing.assert_close(logits(base), beside, atol=1e-5, rtol=0)
    assert set(base.state_dict()) == set(build(base.config, seed=0).state_dict())


@pytest.mark.parametrize(("kind", "dora"), [("int4", False), ("nf4", False), ("nf4", True)])
def test_beside_a_base_in_4_bits_adapters_learn_and_merge_into_what_the_codes_stand_for(
    shape: Callable[..., ModelConfig], tmp_path: Path, kind: str, dora: bool
) -> None:
    base = build(shape(width=64, ffn_width=128, head_dim=32), seed=1)
    before, float_logits = copy.deepcopy(base.state_dict()), logits(base)
    rounded = copy.deepcopy(base)
    for name, matrix in rounded.named_modules():
        if name.startswith("blocks.") and isinstance(matrix, torch.nn.Linear):
            matrix.weight.data = FourBits(matrix.weight, kind, name).dense()
    attach(base, fresh(base, LoraConfig(rank=4, base=kind, dora=dora), seed=2))
    torch.testing.assert_close(logits(base), logits(rounded), atol=1e-5, rtol=0)
    held = {name for name in base.state_dict() if name.startswith("blocks.") and "norm" not in name}
    assert {name.rpartition(".")[2] for name in held} == ({"a", "b", "magnitude"} if dora else {"a", "b"})
    base(TOKENS_BT).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in base.parameters() if p.requires_grad)
    detach(base)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    adapter = trained(base, base=kind, dora=dora)
    attach(base, adapter)
    beside = logits(base)
    save_adapter(adapter, tmp_path)
    again = load_adapter(tmp_path)
    attach(base, again)
    assert again.config.base == kind
    assert torch.equal(logits(base), beside)
    assert not torch.allclose(beside, float_logits, atol=0.01)
    merge(base)
    torch.testing.assert_close(logits(base), beside, atol=1e-5, rtol=0)
    assert base.state_dict().keys() == build(base.config, seed=0).state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_ours_and_we_open_pefts(base: Transformer, tmp_path: Path, kind: str) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    save_pretrained(base, tmp_path / "base")
    adapter = trained(base, **KINDS[kind], targets=("attention.q", "attention.v", "ffn.down"))
    save_adapter(adapter, tmp_path / "ours", str(tmp_path / "base"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "ours"
        ).eval()
        theirs.save_pretrained(tmp_path / "theirs")
    attach(base, adapter)
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS_BT).logits, logits(base), atol=1e-5, rtol=0)
    again = load_adapter(tmp_path / "theirs")
    assert again.config == adapter.config
    for name, parts in adapter.tensors.items():
        assert {part: bool((tensor == again.tensors[name][part]).all()) for part, tensor in parts.items()} == (
            dict.fromkeys(parts, True)
        )


def test_several_adapters_take_turns_on_one_base(base: Transformer) -> None:
    first, second = trained(base), trained(base, rank=5)
    attach(base, first)
    one = logits(base)
    attach(base, second)
    assert not torch.equal(logits(base), one)
    attach(base, first)
    assert torch.equal(logits(base), one)
    deeper = build(base.config.model_copy(update={"layers": base.config.layers + 1}), seed=1)
    with pytest.raises(UserError, match="they differ in blocks"):
        attach(base, trained(deeper))
    assert torch.equal(logits(base), one), "what does not fit leaves the present one where it is"


def test_a_saved_adapter_is_the_same(base: Transformer, tmp_path: Path) -> None:
    adapter = trained(base, dora=True)
    attach(base, adapter)
    save_adapter(adapter_of(base, adapter.config, "0123"), tmp_path)
    again = load_adapter(tmp_path)
    assert again.base == "0123"
    assert again.config == adapter.config
    one = logits(base)
    attach(base, again)
    assert torch.equal(logits(base), one)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"bias": "all"}, r"bias \(all\) is not supported"), ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
     ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"r": "many"}, "does not describe an adapter"),
     ({"lora_alpha": None}, r"adapter \(alpha: Input should be a valid number\); restore it$"),
     ({"init_lora_weights": "pissa"}, r"init_lora_weights \(pissa\)"), ({"layer_replication": [[0, 1]]}, "replication"),
     ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens")],
    ids=["bias", "ranks", "saved modules", "rank", "alpha", "a base that changes", "layers twice", "invoked"],
)  # fmt: skip
def test_what_would_compute_something_else_is_refused(
    base: Transformer, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    save_adapter(trained(base), tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises((UserError, DamagedError), match=message):
        load_adapter(tmp_path)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8, torch.complex64], ids=str)
def test_numbers_of_another_kind_are_refused(base: Transformer, tmp_path: Path, kind: torch.dtype) -> None:
    save_adapter(trained(base), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor.to(kind) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"in torch\.\w+; save the adapter in floats of 16 bits or more"):
        load_adapter(tmp_path)


@pytest.mark.parametrize("name", ["nope", "n" * 5000], ids=["absent", "impossible"])
def test_a_folder_without_an_adapter_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"there is no adapter in .* correct the path, or write one by slm adapter"):
        load_adapter(tmp_path / name)


def test_an_adapter_of_another_base_is_refused(base: Transformer, shape: Callable[..., ModelConfig]) -> None:
    other = build(shape(ffn_width=base.config.ffn_width * 2), seed=1)
    with pytest.raises(UserError, match=r"of another model: for blocks\.0\.ffn\.gate it has"):
        attach(other, trained(base))
    deeper = build(shape(layers=base.config.layers + 1), seed=1)
    with pytest.raises(UserError, match="they differ in blocks"):
        attach(deeper, trained(base))


def test_numbers_that_are_none_are_refused(base: Transformer) -> None:
    adapter = trained(base)
    adapter.tensors["blocks.0.ffn.up"]["b"][0, 0] = float("nan")
    with pytest.raises(DamagedError, match=r"b of blocks\.0\.ffn\.up holds NaN"):
        attach(base, adapter)
