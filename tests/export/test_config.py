import re

import pytest

from slm.core.errors import ProblemsError
from slm.export.config import ExportConfig
from slm.recipe import build_recipe


def test_every_format_has_a_budget_of_its_own_key() -> None:
    config = ExportConfig()
    keys = [config.budget(name)[0] for name in config.formats]
    assert len(set(keys)) == len(config.formats)
    for name in config.formats:
        key, budget = config.budget(name)
        assert getattr(config, key.removeprefix("export.")) == budget


def test_a_format_named_twice_is_refused() -> None:
    with pytest.raises(ProblemsError, match=re.escape("export.formats: hf is named twice; name each format once")):
        build_recipe({"export": {"formats": ["hf", "hf"]}})


def test_an_importance_matrix_without_a_file_that_heeds_it_is_refused() -> None:
    with pytest.raises(ProblemsError, match="imatrix has no effect without a quantized GGUF; add one, such as gguf_q4"):
        build_recipe({"export": {"imatrix": True, "formats": ["hf", "gguf_f16"]}})
    assert build_recipe({"export": {"imatrix": True, "formats": ["gguf_q8_0"]}}).export.imatrix


def test_an_unknown_format_and_no_format_are_refused() -> None:
    with pytest.raises(ProblemsError, match=r"export\.formats.*'gguf_q8_0'.*'onnx'"):
        build_recipe({"export": {"formats": ["tflite"]}})
    with pytest.raises(ProblemsError, match=r"export\.formats: .*at least 1 item"):
        build_recipe({"export": {"formats": []}})
