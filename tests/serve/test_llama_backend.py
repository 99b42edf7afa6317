"""Answers from a GGUF file in llama.cpp; what it shares with other back ends is in test_engine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm.core.errors import DamagedError
from slm.recipe import Recipe
from slm.serve.engine import Engine
from slm.serve.llama_backend import describe
from slm.tokenizer.tokenizer import Tokenizer


def test_a_file_says_its_length_its_template_and_whether_it_is_f32(recipe: Recipe) -> None:
    export = recipe.folder("export")
    assert describe(export / "model-f32.gguf") == (2048, True, True)
    assert describe(export / "model-q8_0.gguf") == (2048, True, False)


def test_a_stop_text_ends_an_answer_and_is_not_shown(engines: dict[str, Engine], recipe: Recipe) -> None:
    settings = recipe.serve.model_copy(update={"max_tokens": 60})
    whole = "".join(engines["gguf"].generate("import re", settings))
    stop = re.findall("[ -~]{2}", whole)[-1]
    stopped = engines["gguf"].generate("import re", settings.model_copy(update={"stop": ("never there", stop)}))
    assert "".join(stopped) == whole[: whole.index(stop)]
    assert stopped.outcome.finish_reason == "stop"


def test_only_llama_cpp_takes_the_lower_block_for_a_space(engines: dict[str, Engine], tokenizer: Tokenizer) -> None:
    read = {name: tokenizer.decode(engine.encode("a▁b")) for name, engine in engines.items()}
    assert read == {"checkpoint": "a▁b", "hf": "a▁b", "gguf": "a b", "onnx": "a▁b"}


@pytest.mark.parametrize("keep", [0.001, 0.3, 0.95])
def test_a_truncated_gguf_is_refused(recipe: Recipe, places: dict[str, str], tmp_path: Path, keep: float) -> None:
    data = Path(places["gguf"]).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DamagedError, match=r"cut\.gguf"):
        Engine.open(str(tmp_path / "cut.gguf"), recipe)


def test_a_gguf_answers_over_an_int8_cache(recipe: Recipe, places: dict[str, str], engines: dict[str, Engine]) -> None:
    settings = recipe.serve.model_copy(update={"kv_cache": "int8", "max_tokens": 8})
    with Engine.open(places["gguf"], recipe.model_copy(update={"serve": settings})) as engine:
        answer = "".join(engine.generate("def main():", settings))
    assert len(answer) > 4
    assert answer[:1] == "".join(engines["gguf"].generate("def main():", settings))[:1]
