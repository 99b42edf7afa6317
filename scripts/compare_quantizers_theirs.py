"""The other side of compare_quantizers.py: `theirs.py PART FOLDER`, run in the environment of that program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def llama_cpp(folder: Path) -> dict[str, Any]:
    """Quantize model-f32.gguf to every type of types.json."""
    import ctypes

    import llama_cpp as library

    for name, kind in json.loads((folder / "types.json").read_text()).items():
        settings = library.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, 1
        source, target = str(folder / "model-f32.gguf").encode(), str(folder / f"theirs-{name}.gguf").encode()
        if library.llama_model_quantize(source, target, ctypes.byref(settings)):
            raise SystemExit(f"llama_model_quantize failed for {name}")
    return {"version": library.__version__}


def autoawq(folder: Path) -> dict[str, Any]:
    """Pack what a folder stands for with AutoAWQ's layer, and compare with the folder's own tensors."""
    import torch
    from awq.modules.linear.gemm import WQLinear_GEMM
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    group = json.loads((folder / "config.json").read_text())["quantization_config"]["group_size"]
    equal, differing = 0, []
    for key in [key for key in stored if key.endswith(".qweight")]:
        stem = key.removesuffix(".qweight")
        scales_GO = stored[f"{stem}.scales"]
        zeros_GO = _unpacked(stored[f"{stem}.qzeros"])
        steps_IO = _unpacked(stored[key]).float() - zeros_GO.float().repeat_interleave(group, dim=0)
        linear = torch.nn.Linear(*steps_IO.shape, bias=False)
        linear.weight.data = (steps_IO * scales_GO.float().repeat_interleave(group, dim=0)).T.contiguous()
        packed = WQLinear_GEMM.from_linear(linear, 4, group, scales=scales_GO, zeros=zeros_GO)
        for part in ("qweight", "qzeros", "scales"):
            if torch.equal(getattr(packed, part), stored[f"{stem}.{part}"]):
                equal += 1
            else:
                differing.append(f"{stem}.{part}")
    return {"equal": equal, "differing": differing}


def gptqmodel(folder: Path) -> dict[str, Any]:
    """Open a folder with transformers, and give the logits of a row of ids."""
    import torch
    from gptqmodel import BACKEND, GPTQModel

    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.AWQ_TORCH, dtype=torch.float32)
    ids = [1, *range(20, 60)]
    with torch.inference_mode():
        logits = model.model(torch.tensor([ids])).logits[0].float()
    kernel = type(model.model.model.layers[0].mlp.down_proj).__name__
    return {"ids": ids, "logits": logits.tolist(), "kernel": kernel}


def _unpacked(words: Any) -> Any:
    """Nibbles of int32 words in AutoAWQ's order: output 0, 2, 4, 6, 1, 3, 5, 7 of each eight."""
    import torch

    nibbles = torch.stack([(words >> (4 * place)) & 15 for place in range(8)], dim=-1)
    return nibbles[:, :, [0, 4, 1, 5, 2, 6, 3, 7]].flatten(1)


if __name__ == "__main__":
    parts = {"llama_cpp": llama_cpp, "autoawq": autoawq, "gptqmodel": gptqmodel}
    print("\n" + json.dumps(parts[sys.argv[1]](Path(sys.argv[2]))))
