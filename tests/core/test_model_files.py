"""A model in parts is one model, named by its first part and as large as all."""

from __future__ import annotations

from pathlib import Path

from slm.core.model_files import gguf_model, gguf_models, parts_of


def test_models_are_listed_by_the_file_that_opens_them_with_the_bytes_of_all(tmp_path: Path) -> None:
    first = tmp_path / "model-f16-00001-of-00002.gguf"
    for name, size in {"model-q8_0": 25, "imatrix": 1, first.stem: 5, "model-f16-00002-of-00002": 15}.items():
        (tmp_path / f"{name}.gguf").write_bytes(bytes(size))
    assert gguf_models(tmp_path) == [(first, 20), (tmp_path / "model-q8_0.gguf", 25)]
    assert parts_of(first) == [first, tmp_path / "model-f16-00002-of-00002.gguf"]
    assert parts_of(tmp_path / "model-q8_0.gguf") == [tmp_path / "model-q8_0.gguf"]
    assert gguf_model(tmp_path, "f16") == first
    assert gguf_model(tmp_path, "q8_0") == tmp_path / "model-q8_0.gguf"
