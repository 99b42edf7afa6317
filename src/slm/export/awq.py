"""A folder in AutoAWQ's form (`quant_method: awq`, `version: gemm`), from integers that the compress stage made.

In: a variant of 4 bits. Out: `awq/`, which transformers with gptqmodel, vLLM and AutoAWQ itself open: the blocks'
matrices as `qweight` [I, O/8] and `qzeros` [G, O/8] in int32 and `scales` [G, O] in float16; embedding, head and norms
as float16. Eight neighbouring outputs share an int32; nibble i holds output `ORDER[i]` of the eight. The number that a
nibble stands for is (q - z) * s, which is what `slm.model.integers` says too, so the integers go over as they are and
nothing is rounded again, except that norms become float16.

What vLLM's loader asks for is met: 4 bits, outputs a multiple of 8 (q, k, v and gate, up are put side by side along
the outputs, and share their inputs), groups that divide the inputs, scales in float16, zero points also for symmetric
grids (8 everywhere), and in `config.json` the keys that it reads: `quant_method`, `bits`, `group_size`, `zero_point`,
`modules_to_not_convert`. Its kernel asks for more (`KERNEL_GROUPS` and what follows); a model that it cannot run gets
a notice. The proof reads the folder back, undoes the layout and lets transformers compute; it is held against the
model that the integers stand for.

The layout was written after AutoAWQ 0.2.9 (awq/modules/linear/gemm.py) and is held against it bit for bit by
`scripts/compare_quantizers.py`.

Shapes: I inputs, O outputs, G groups.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from slm.compress.files import read_integers
from slm.core.errors import DamagedError, UserError
from slm.export.hugging_face import TransformersEngine, running
from slm.export.subject import Engine, Subject, Written
from slm.model.config import ModelConfig
from slm.model.hugging_face import CONFIG, save_configuration, to_hf_name
from slm.model.integers import Integers
from slm.model.load import load_tensors, read_json, save_tensors
from slm.tokenizer.hugging_face import write_hugging_face

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
PER_WORD = 8
BITS = 4
KERNEL_GROUPS, KERNEL_INPUTS, KERNEL_OUTPUTS = (-1, 32, 64, 128), 128, 64
"""What Marlin, vLLM's kernel for this form, runs: group sizes, and what inputs and outputs must be multiples of."""


def write(subject: Subject, folder: Path, name: str) -> Written:
    """Write the folder `awq/`."""
    assert subject.variant is not None
    target, tokenizer = folder / name, subject.tokenizer
    integers, plain = read_integers(subject.variant)
    in_blocks = {key: found for key, found in integers.items() if key.startswith("blocks.")}
    grid = _one_grid(subject.variant, in_blocks)
    tensors: dict[str, Tensor] = {}
    for key, found in in_blocks.items():
        tensors.update(_packed(to_hf_name(key).removesuffix(".weight"), found))
    outside = {key: found.dequantize() for key, found in integers.items() if key not in in_blocks}
    for key, tensor in {**plain, **outside}.items():
        tensors[to_hf_name(key)] = _half(key, tensor)
    quantization = {
        "quant_method": "awq", "version": "gemm", "bits": BITS, "group_size": grid or -1, "zero_point": True,
        "modules_to_not_convert": None if subject.model.config.tie_embeddings else ["lm_head"],
    }  # fmt: skip
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    save_configuration(subject.model.config, target, torch.float16, ids, quantization)
    save_tensors(tensors, target, subject.max_shard_bytes, index_one_file=False)
    write_hugging_face(tokenizer, target)
    return Written(target, _kernel_notices(subject.model.config, grid or -1))


def refuse_unsupported(config: ModelConfig) -> None:
    """Refuse widths whose outputs do not fill whole words."""
    outputs = {"ffn_width": config.ffn_width, "width": config.width}
    for heads in ("heads", "kv_heads"):
        outputs[f"{heads} * head_dim"] = getattr(config, heads) * config.head_dim
    for key, number in outputs.items():
        if number % PER_WORD:
            raise UserError(
                f"model.{key} ({number:,}) must be a multiple of {PER_WORD} for AutoAWQ's layout; leave awq out of "
                "export.formats"
            )


@contextlib.contextmanager
def engine(written: Path, *, end_ids: frozenset[int], context_tokens: int, threads: int) -> Iterator[Engine]:
    """transformers with what the folder stands for, in float32."""
    del context_tokens
    with running(threads):
        yield TransformersEngine(written, end_ids, dequantized(written))


def dequantized(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder in AutoAWQ's form under transformers' names, float32."""
    group = int(read_json(folder / CONFIG)["quantization_config"]["group_size"])
    tensors, found = load_tensors(folder), dict[str, Tensor]()
    for key in [key for key in tensors if key.endswith(".qweight")]:
        stem = key.removesuffix(".qweight")
        missing = [part for part in ("qzeros", "scales") if f"{stem}.{part}" not in tensors]
        if missing:
            raise DamagedError(f"{folder} lacks {stem}.{missing[0]}; restore it or export again")
        values_IO, zeros_GO = unpack_words(tensors.pop(key)), unpack_words(tensors.pop(f"{stem}.qzeros"))
        scales_GO = tensors.pop(f"{stem}.scales").float()
        size = group if group > 0 else len(values_IO)
        steps_IO = values_IO.float() - zeros_GO.float().repeat_interleave(size, dim=0)
        found[f"{stem}.weight"] = (steps_IO * scales_GO.repeat_interleave(size, dim=0)).T.contiguous()
    return {**found, **{key: tensor.float() for key, tensor in tensors.items()}}


def pack_words(values: Tensor) -> Tensor:
    """Integers below 16 [N, O] as int32 words [N, O / 8]."""
    words_NWE = values.reshape(len(values), -1, PER_WORD).to(torch.int64)
    packed_NW = torch.zeros(words_NWE.shape[:2], dtype=torch.int64)
    for place, output in enumerate(ORDER):
        packed_NW |= words_NWE[:, :, output] << (BITS * place)
    signed_NW = torch.where(packed_NW >= 1 << 31, packed_NW - (1 << 32), packed_NW)
    return signed_NW.to(torch.int32)


def unpack_words(packed: Tensor) -> Tensor:
    """What `pack_words` was given, uint8."""
    nibbles_NWE = torch.empty((*packed.shape, PER_WORD), dtype=torch.uint8)
    for place, output in enumerate(ORDER):
        nibbles_NWE[:, :, output] = ((packed >> (BITS * place)) & 15).to(torch.uint8)
    values: Tensor = nibbles_NWE.flatten(1)
    return values


def _packed(stem: str, found: Integers) -> dict[str, Tensor]:
    return {
        f"{stem}.qweight": pack_words(found.values_OI.T),
        f"{stem}.qzeros": pack_words(found.zeros_OG.T),
        f"{stem}.scales": found.scales_OG.T.contiguous(),
    }


def _one_grid(variant: Path, integers: dict[str, Integers]) -> int:
    """The group size that all matrices share."""
    bits = {found.grid.bits for found in integers.values()}
    sizes = {found.grid.group_size for found in integers.values()}
    if bits != {BITS}:
        raise UserError(
            f"export.variant ({variant.name}) has {', '.join(map(str, sorted(bits)))} bits, but AutoAWQ's form has "
            f"{BITS}; name a variant of {BITS} bits, or leave awq out of export.formats"
        )
    if len(sizes) > 1:
        raise UserError(
            f"export.variant ({variant.name}) has groups of {', '.join(map(str, sorted(sizes)))}, but AutoAWQ's form "
            f"has one size for all; set compress.variants.{variant.name}.group_size to {min(sizes)}"
        )
    return sizes.pop()


def _kernel_notices(config: ModelConfig, group_size: int) -> tuple[str, ...]:
    """What keeps vLLM's kernel from running the folder."""
    found = []
    if group_size not in KERNEL_GROUPS:
        found.append(f"groups of {group_size} (it runs {', '.join(map(str, KERNEL_GROUPS[1:]))})")
    heads, kv_heads = config.heads * config.head_dim, config.kv_heads * config.head_dim
    inputs = {"width": config.width, "heads * head_dim": heads, "ffn_width": config.ffn_width}
    outputs = {"width": config.width, "(heads + 2 kv_heads) * head_dim": heads + 2 * kv_heads}
    for multiple, sizes in ((KERNEL_INPUTS, inputs), (KERNEL_OUTPUTS, outputs)):
        found += [f"{key} {number:,} (no multiple of {multiple})" for key, number in sizes.items() if number % multiple]
    return (f"vLLM loads the folder, but its Marlin kernel cannot run {'; '.join(found)}",) if found else ()


def _half(name: str, tensor: Tensor) -> Tensor:
    half = tensor.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise UserError(
            f"{name} holds numbers beyond float16, which AutoAWQ's form keeps it in; export hf or gguf_bf16 instead"
        )
    return half
