"""Checkpoint to files that other programs open, each proved against the model it came from.

`EXPORTERS` names the module of each format; a module offers `write` and `engine` (see `subject.Exporter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm.export.config import Format

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe

EXPORTERS: dict[Format, str] = {
    "hf": "slm.export.hugging_face",
    "gguf_f32": "slm.export.gguf",
    "gguf_f16": "slm.export.gguf",
    "gguf_bf16": "slm.export.gguf",
    "gguf_q8_0": "slm.export.gguf",
    "gguf_q6_k": "slm.export.gguf",
    "gguf_q5_k_m": "slm.export.gguf",
    "gguf_q5_0": "slm.export.gguf",
    "gguf_q4_k_m": "slm.export.gguf",
    "gguf_q4_0": "slm.export.gguf",
    "awq": "slm.export.awq",
    "onnx": "slm.export.onnx",
    "onnx_int8": "slm.export.onnx",
    "onnx_int4": "slm.export.onnx",
}


def run(recipe: Recipe) -> Artifact:
    """Write the recipe's formats from its newest checkpoint, prove each, publish all or nothing."""
    from slm.export.stage import run as run_stage

    return run_stage(recipe)
