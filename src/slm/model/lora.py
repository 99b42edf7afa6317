"""Low-rank adapters: a frozen matrix W [O, I], beside it B [O, R] A [R, I], of which the product is added.

y = x W' with W' = W + scale B A (LoRA, arXiv 2106.09685); with DoRA (arXiv 2402.09353) W' = m (W + scale B A) / |W +
scale B A|, where m holds a length for each row, begins as that of W, and the norm gets no gradient. A is drawn as
peft draws it (uniform within sqrt(1 / I)), B is zero, so a fresh adapter changes nothing.

`attach` puts an adapter onto a model in place and freezes all else; `detach` takes it off again, so several adapters
take turns on one base; `merge` writes W' into the matrices. Files are peft's: `adapter_config.json` and
`adapter_model.safetensors` with peft's names, so peft opens ours and we open peft's (tested, outputs equal). The
base's fingerprint stands in the safetensors header, where peft leaves it alone.

With `base` int4 or nf4 the frozen matrices are held in 4 bits (`four_bits`), and W stands for what these mean. A file
says so beside the fingerprint, and `attach` then holds them like that again; peft and llama.cpp do not know it.

What it does not do: dropout on an adapter's input (`train.dropout` leaves out parts of the stream instead), adapters of
embeddings, head or norms, biases, ranks that differ by layer; peft folders that have any of these are refused by name.

Shapes: O rows and I columns of a matrix, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from slm.core.errors import DamagedError, UserError
from slm.core.seeds import derive
from slm.model import four_bits
from slm.model.config import MATRICES, LoraConfig, Matrix
from slm.model.four_bits import FourBits
from slm.model.hugging_face import from_hf_name, to_hf_name
from slm.model.load import read_json, read_safetensors
from slm.model.transformer import Transformer

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
_PEFT_STEM = "base_model.model."
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_PEFT_NAMES = {"a": "lora_A.weight", "b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_BASE, _HELD = "base", "base_held_as"
"""What the header of `TENSORS` says of the base: its fingerprint, and int4 or nf4 where it is held so."""
_MUST_BE: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",), "bias": ("none", None), "lora_bias": (False, None), "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []), "rank_pattern": ({}, None), "alpha_pattern": ({}, None), "layers_to_transform":
    (None,), "target_parameters": (None, []), "trainable_token_indices": (None, [], {}), "use_qalora": (False, None),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"), "alora_invocation_tokens": (None, []),
    "layer_replication": (None, []), "arrow_config": (None,), "use_bdlora": (False, None, {}), "velora_config": (None,),
    "kasa_config": (None,), "monteclora_config": (None,),
}  # fmt: skip
"""What a peft configuration must say, where it says anything, for its adapter to compute what ours does. Other initial
weights than these (PiSSA, OLoRA, CorDA, LoftQ) go with a base that peft changes when it loads the adapter."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The trained tensors, by the name of their matrix, such as `blocks.0.attention.q`, and how they are added."""

    config: LoraConfig
    tensors: dict[str, dict[str, Tensor]]
    """For each matrix `a` [R, I], `b` [O, R] and, with DoRA, `magnitude` [O]."""
    base: str = ""
    """Fingerprint of the checkpoint that it was trained beside; empty where its folder does not say."""


class LoraLinear(nn.Linear):
    """A frozen matrix with an adapter; `attach` makes it."""

    a: nn.Parameter
    b: nn.Parameter
    magnitude: nn.Parameter | None
    codes: FourBits | None
    """The matrix where it is held in 4 bits; `weight` is None then."""
    before: Tensor | None
    """The matrix as it was before it was held in 4 bits, where it is kept."""

    @staticmethod
    def around(linear: nn.Linear, lora: LoraConfig, tensors: dict[str, Tensor], name: str, *, keep: bool) -> LoraLinear:
        """`linear`, its weight shared (or held in 4 bits) and frozen, with an adapter beside it."""
        with torch.device("meta"):
            made = LoraLinear(linear.in_features, linear.out_features, bias=False)
        made.codes = None if lora.base == "float" else FourBits(linear.weight, lora.base, name)
        if made.codes is None:
            made.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
        else:
            made.register_parameter("weight", None)
        made.register_buffer("before", linear.weight.detach() if keep and made.codes else None, persistent=False)
        own = {name: nn.Parameter(tensor.to(linear.weight.device, torch.float32)) for name, tensor in tensors.items()}
        made.a, made.b, made.magnitude = own["a"], own["b"], own.get("magnitude")
        made.scale = lora.scale
        return made

    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]."""
        out = functional.linear(x, self.weight) if self.codes is None else four_bits.linear(x, self.codes)
        added = functional.linear(functional.linear(x, self.a), self.b) * self.scale
        if self.magnitude is None:
            return out + added
        ratio_O = (self.magnitude / self._sum().norm(dim=1).detach()).to(out.dtype)
        directed: Tensor = ratio_O * (out + added)
        return directed

    def merged(self) -> Tensor:
        """W' [O, I], in the type of W, computed in float64: rounded once."""
        whole = self._sum(torch.float64)
        if self.magnitude is not None:
            whole *= (self.magnitude.double() / whole.norm(dim=1))[:, None]
        return whole.to(self.frozen().dtype)

    def frozen(self) -> Tensor:
        """W [O, I]; where it is held in 4 bits, what the codes stand for."""
        return self.weight if self.codes is None else self.codes.dense().to(self.codes.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LoraLinear:
        if self.codes is not None:
            self.codes.to(fn(torch.empty(0, device=self.codes.packed.device)).device)
        made: LoraLinear = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return made

    def _sum(self, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.frozen().to(dtype) + self.scale * (self.b.detach().to(dtype) @ self.a.detach().to(dtype))


def fresh(model: Transformer, config: LoraConfig, seed: int) -> Adapter:
    """An adapter that changes nothing yet; equal arguments give equal numbers."""
    generator = torch.Generator().manual_seed(derive(seed, "lora"))
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, linear in _matrices(model, config.targets):
        bound = linear.in_features**-0.5
        a_RI = torch.empty(config.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        tensors[name] = {"a": a_RI, "b": torch.zeros(linear.out_features, config.rank)}
        if config.dora:
            held = linear.weight if config.base == "float" else FourBits(linear.weight, config.base, name).dense()
            tensors[name]["magnitude"] = held.detach().float().norm(dim=1)
    return Adapter(config, tensors)


def attach(model: Transformer, adapter: Adapter, *, keep: bool = True) -> None:
    """Put `adapter` onto `model` in place; from now on only its tensors are trained. One that is there goes first.

    A base that the adapter holds in 4 bits is kept beside them for `detach`, unless `keep` is false. Where the adapter
    does not fit, `UserError`, and the model is as it was.
    """
    _check(model, adapter)
    detach(model)
    _beside(model, adapter, keep=keep)


def attach_blank(model: Transformer, config: LoraConfig) -> None:
    """Put a fresh adapter onto a model whose tensors may have no content, for forecasts."""
    _beside(model, fresh(model, config, 0), keep=False)


def _beside(model: Transformer, adapter: Adapter, *, keep: bool) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, linear in list(_matrices(model, adapter.config.targets)):
        _put(model, name, LoraLinear.around(linear, adapter.config, adapter.tensors[name], name, keep=keep))


def bytes_held(model: Transformer) -> tuple[int, int]:
    """Bytes of all weights, codes counted as they lie in memory, and of those that are trained."""
    codes = sum(module.codes.bytes for _, module in _attached(model) if module.codes is not None)
    sizes = [(parameter.nbytes, parameter.requires_grad) for parameter in model.parameters()]
    return codes + sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)


def detach(model: Transformer) -> None:
    """The model as it was before `attach`, all its weights trainable; of a base in 4 bits that was not kept these."""
    for name, module in list(_attached(model)):
        _put(model, name, _plain(module, module.frozen() if module.before is None else module.before))
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def merge(model: Transformer) -> None:
    """Write the adapter into the matrices of `model`, which is then an ordinary one."""
    for name, module in list(_attached(model)):
        _put(model, name, _plain(module, module.merged()))
    detach(model)


def merged_state(model: Transformer) -> dict[str, Tensor]:
    """The tensors of `model` as `merge` would leave them, under their ordinary names; without an adapter its own."""
    attached = dict(_attached(model))
    mine = {f"{name}.{part}" for name in attached for part in _PEFT_NAMES}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in mine}
    return state | {f"{name}.weight": module.merged() for name, module in attached.items()}


def adapter_state(model: Transformer) -> dict[str, Tensor]:
    """The tensors that are trained, by name, such as `blocks.0.attention.q.a`; without an adapter none."""
    attached = _attached(model)
    return {f"{name}.{part}": tensor for name, module in attached for part, tensor in module.named_parameters()
            if part in _PEFT_NAMES}  # fmt: skip


def adapter_of(model: Transformer, config: LoraConfig, base: str = "") -> Adapter:
    """The adapter that `attach` put onto `model`, as it is now."""
    tensors = {}
    for name, module in _attached(model):
        parts = {"a": module.a, "b": module.b, "magnitude": module.magnitude}
        tensors[name] = {part: tensor.detach() for part, tensor in parts.items() if tensor is not None}
    return Adapter(config, tensors, base)


def save_adapter(adapter: Adapter, folder: Path, base_name: str = "") -> None:
    """Write a folder that peft opens too; `base_name` is where peft finds the base."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = adapter.config
    content = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "inference_mode": True,
        "r": config.rank, "lora_alpha": config.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "target_modules": [_hf_matrix(target).rpartition(".")[2] for target in config.targets],
        "use_dora": config.dora, "use_rslora": config.rslora,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(content, indent=1), encoding="utf-8")
    named = {
        _PEFT_STEM + to_hf_name(f"{name}.weight").removesuffix("weight") + _PEFT_NAMES[part]: tensor.contiguous().cpu()
        for name, parts in adapter.tensors.items()
        for part, tensor in parts.items()
    }
    told = {_BASE: adapter.base, _HELD: "" if config.base == "float" else config.base}
    save_file(
        named, folder / TENSORS, metadata={"format": "pt", **{key: value for key, value in told.items() if value}}
    )


def load_adapter(folder: Path) -> Adapter:
    """An adapter from a folder that we or peft wrote; what would compute something else is refused by name."""
    from safetensors import safe_open

    try:
        there = (folder / CONFIG).is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise UserError(f"there is no adapter in {folder} (no {CONFIG}); correct the path, or write one by slm adapter")
    content = read_json(folder / CONFIG)
    for key, allowed in _MUST_BE.items():
        if key in content and content[key] not in allowed:
            raise UserError(f"{folder / CONFIG}: {key} ({content[key]}) is not supported; train the adapter without it")
    tensors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_safetensors(folder / TENSORS).items():
        name, part = _ours(key, folder)
        if tensor.dtype not in _FLOATS:
            raise UserError(
                f"{folder / TENSORS} holds {key} in {tensor.dtype}; save the adapter in floats of 16 bits or more"
            )
        tensors.setdefault(name, {})[part] = tensor
    found = {name.split(".", 2)[2] for name in tensors}
    with safe_open(folder / TENSORS, framework="pt") as file:
        told = file.metadata() or {}
    try:
        config = LoraConfig(
            rank=content["r"],
            alpha=content["lora_alpha"],
            targets=tuple(matrix for matrix in MATRICES if matrix in found),
            dora=content.get("use_dora") or False,
            rslora=content.get("use_rslora") or False,
            base=told.get(_HELD, "float"),
        )
    except (KeyError, ValidationError) as error:
        problem = f"no {error}"
        if isinstance(error, ValidationError):
            problem = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise DamagedError(f"{folder / CONFIG} does not describe an adapter ({problem}); restore it") from error
    return Adapter(config, tensors, told.get(_BASE, ""))


def _check(model: Transformer, adapter: Adapter) -> None:
    config = adapter.config
    wanted = dict(_matrices(model, config.targets))
    if set(wanted) != set(adapter.tensors):
        odd = ", ".join(sorted(set(wanted) ^ set(adapter.tensors))[:3])
        raise UserError(f"the adapter is of another model: they differ in {odd}; attach it to the base it was made for")
    for name, linear in wanted.items():
        shapes: dict[str, tuple[int, ...]] = {
            "a": (config.rank, linear.in_features),
            "b": (linear.out_features, config.rank),
        }
        if config.dora:
            shapes["magnitude"] = (linear.out_features,)
        found = {part: tuple(tensor.shape) for part, tensor in adapter.tensors[name].items()}
        if found != shapes:
            raise UserError(
                f"the adapter is of another model: for {name} it has {found}, and the model needs {shapes}; attach it "
                "to the base it was made for"
            )
        for part, tensor in adapter.tensors[name].items():
            if not bool(torch.isfinite(tensor).all()):
                raise DamagedError(f"the adapter's {part} of {name} holds NaN or infinity; go back to an earlier one")


def _matrices(model: Transformer, targets: tuple[Matrix, ...]) -> Iterator[tuple[str, nn.Linear]]:
    for layer, block in enumerate(model.blocks):
        for target in targets:
            yield f"blocks.{layer}.{target}", cast("nn.Linear", block.get_submodule(target))


def _attached(model: Transformer) -> Iterator[tuple[str, LoraLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def _put(model: Transformer, name: str, linear: nn.Linear) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, linear)


def _plain(module: LoraLinear, weight: Tensor) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(module.in_features, module.out_features, bias=False)
    made.weight = nn.Parameter(weight)
    return made


def _hf_matrix(matrix: str) -> str:
    return to_hf_name(f"blocks.0.{matrix}.weight").removesuffix(".weight")


def _ours(key: str, folder: Path) -> tuple[str, str]:
    """Our name of a matrix, and which of its tensors a peft key means."""
    for part, theirs in _PEFT_NAMES.items():
        if key.startswith(_PEFT_STEM) and key.endswith(f".{theirs}"):
            name = key.removeprefix(_PEFT_STEM).removesuffix(theirs) + "weight"
            ours = from_hf_name(name).removesuffix(".weight")
            if ours.partition(".")[0] == "blocks" and ours.split(".", 2)[2] in MATRICES:
                return ours, part
    raise UserError(
        f"{folder / TENSORS} holds {key}, which has no place in our model; adapters of {', '.join(MATRICES)} are read"
    )
