"""Where the files of a format lie."""

from __future__ import annotations

from slm.export import EXPORTERS
from slm.export.config import ExportConfig
from slm.release.files import belongs, exported_path

PART = "model-f16-00002-of-00003.gguf"


def test_each_format_lies_where_its_exporter_puts_it(recipe_of):
    export = recipe_of().artifact("export")
    assert exported_path(export.path, "hf").is_dir()
    assert exported_path(export.path, "gguf_f32").is_file()
    for name in ExportConfig.model_validate({"formats": export.section["formats"]}).formats:
        assert any(belongs(file, name) for file in export.manifest["files"])


def test_a_file_belongs_to_one_format():
    files = ("hf/config.json", "awq/model.safetensors", "model-q4_k_m.gguf", "model-f16.gguf", PART)
    owners = {file: [name for name in EXPORTERS if belongs(file, name)] for file in files}
    assert owners == {
        "hf/config.json": ["hf"], "awq/model.safetensors": ["awq"], "model-q4_k_m.gguf": ["gguf_q4_k_m"],
        "model-f16.gguf": ["gguf_f16"], PART: ["gguf_f16"],
    }  # fmt: skip
    assert not [name for name in EXPORTERS if belongs("parity.json", name)]
