"""The other side of compare_quantizers.py and bench_quantizers.py: `theirs.py PART PATH`, in its own environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def llama_cpp(folder: Path) -> dict[str, Any]:
    """Quantize model-f32.gguf to every type of types.json."""
    import ctypes

    import llama_cpp as library
    import numpy as np

    entries = []
    if (folder / "imatrix.npz").is_file():
        matrices = dict(np.load(folder / "imatrix.npz"))
        for name, values in matrices.items():
            data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entries.append(library.llama_model_imatrix_data(name.encode(), data, len(values)))
        entries.append(library.llama_model_imatrix_data(None, None, 0))
    for name, kind in json.loads((folder / "types.json").read_text()).items():
        settings = library.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, 1
        if entries:
            settings.imatrix = (library.llama_model_imatrix_data * len(entries))(*entries)
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


def quantize_autoawq(file: Path) -> dict[str, Any]:
    """AutoAWQ's own quantizer, in float32, on the rows of a specification."""
    import torch
    from awq import AutoAWQForCausalLM
    from awq.quantize.quantizer import AwqQuantizer
    from transformers import AutoTokenizer

    class OnTheCPU(AwqQuantizer):  # type: ignore[misc]
        """It keeps the weights that it tries scales on by `.cpu()`, which on a CPU copies nothing: they stay scaled."""

        def _compute_best_scale(self, x: Any, w_mean: Any, x_mean: Any, module: Any, *others: Any) -> Any:
            kept = {key: tensor.clone() for key, tensor in module.state_dict().items()}
            module.state_dict = lambda: kept
            try:
                return super()._compute_best_scale(x, w_mean, x_mean, module, *others)
            finally:
                del module.state_dict

    spec = json.loads(file.read_text())
    torch.set_num_threads(spec["threads"])
    clock = _Clock()
    model = AutoAWQForCausalLM.from_pretrained(
        spec["model"], device_map="cpu", safetensors=True, torch_dtype=torch.float32
    )
    settings = {"zero_point": True, "q_group_size": spec["group_size"], "w_bit": 4, "version": "GEMM"}
    model.quantize(
        AutoTokenizer.from_pretrained(spec["model"]), quant_config=settings, calib_data=spec["rows"],
        max_calib_samples=len(spec["rows"]), max_calib_seq_len=len(spec["rows"][0]), quantizer_cls=OnTheCPU,
    )  # fmt: skip
    model.save_quantized(spec["out"])
    return clock.read()


def quantize_gptqmodel(file: Path) -> dict[str, Any]:
    """gptqmodel's AWQ or GPTQ on the rows of a specification; in bfloat16, for it packs no float32."""
    import os

    spec = json.loads(file.read_text())
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # with fewer its loader refuses to start
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig, GPTQConfig

    torch.set_num_threads(spec["threads"])
    clock = _Clock()
    awq = spec["method"] == "awq"
    settings = (AWQConfig if awq else GPTQConfig)(bits=4, group_size=spec["group_size"], sym=False)
    model = GPTQModel.load(spec["model"], settings, device="cpu", dtype=torch.bfloat16)
    backend = BACKEND.AWQ_TORCH if awq else BACKEND.TORCH
    model.quantize([{"input_ids": row} for row in spec["rows"]], batch_size=8, backend=backend)
    model.save(spec["out"])
    found = clock.read()
    if not awq:
        _save_dequantized(Path(spec["out"]))
    return found


def _save_dequantized(folder: Path) -> None:
    """What a GPTQ folder stands for, in a folder inside it, under transformers' names; in its kernel's float16."""
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from safetensors.torch import save_file

    model = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16).model
    packed = {name: module for name, module in model.named_modules() if hasattr(module, "qweight")}
    tensors = {f"{name}.weight": module.dequantize_weight().T.float().contiguous() for name, module in packed.items()}
    for key, tensor in model.state_dict().items():
        if not any(key.startswith(f"{name}.") for name in packed):
            tensors[key] = tensor.float().contiguous()
    (folder / "dequantized").mkdir()
    save_file(tensors, folder / "dequantized" / "model.safetensors")


class _Clock:
    """Seconds and memory from here on."""

    def __init__(self) -> None:
        import time

        self._time = time
        self._before, self._began, self._worked = self._peak(), time.perf_counter(), time.process_time()

    def read(self) -> dict[str, Any]:
        return {
            "seconds": self._time.perf_counter() - self._began,
            "processor_seconds": self._time.process_time() - self._worked,
            "libraries_bytes": self._before, "peak_bytes": self._peak(),
        }  # fmt: skip

    def _peak(self) -> int:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _unpacked(words: Any) -> Any:
    """Nibbles of int32 words in AutoAWQ's order: output 0, 2, 4, 6, 1, 3, 5, 7 of each eight."""
    import torch

    nibbles = torch.stack([(words >> (4 * place)) & 15 for place in range(8)], dim=-1)
    return nibbles[:, :, [0, 4, 1, 5, 2, 6, 3, 7]].flatten(1)


if __name__ == "__main__":
    parts = {
        "llama_cpp": llama_cpp, "autoawq": autoawq, "gptqmodel": gptqmodel, "quantize_autoawq": quantize_autoawq,
        "quantize_gptqmodel": quantize_gptqmodel,
    }  # fmt: skip
    print("\n" + json.dumps(parts[sys.argv[1]](Path(sys.argv[2]))))
