"""Answers from a model in torch: prefill, ends, stop texts, characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slm.core.errors import UserError
from slm.model.cache import KVCache
from slm.recipe import Recipe
from slm.serve import torch_backend
from slm.serve.engine import Engine
from slm.serve.torch_backend import TorchBackend, generation_end_ids
from slm.tokenizer.tokenizer import Tokenizer

Scripts = Callable[..., Engine]


def test_reading_the_prompt_in_chunks_equals_reading_it_token_by_token(
    engines: dict[str, Engine], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = engines["checkpoint"].backend
    assert isinstance(backend, TorchBackend)
    ids = backend.encode("def parse(source, flags=0):\n    return source")
    whole_V = backend._read(ids, KVCache(recipe.model, 1, len(ids)))
    for chunk in (1, 3, 7):
        monkeypatch.setattr(torch_backend, "PREFILL_TOKENS", chunk)
        torch.testing.assert_close(backend._read(ids, KVCache(recipe.model, 1, len(ids))), whole_V, atol=1e-4, rtol=0)
    plain_V = backend.model(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(plain_V, whole_V, atol=1e-4, rtol=0)


@pytest.mark.parametrize("end", [Tokenizer.eos_id, 5])
def test_an_end_token_ends_the_answer_and_is_not_shown(
    scripted: Scripts, tokenizer: Tokenizer, recipe: Recipe, end: int
) -> None:
    said = tokenizer.encode("hello")
    generation = scripted([*said, end, *said]).generate("x", recipe.serve)
    assert "".join(generation) == "hello"
    assert (generation.outcome.finish_reason, generation.outcome.generated_tokens) == ("stop", len(said) + 1)


@pytest.mark.parametrize("stop", ["END", "\n\nEND", "D", "🛑"])
def test_a_stop_text_across_tokens_ends_the_answer(scripted: Scripts, recipe: Recipe, stop: str) -> None:
    settings = recipe.serve.model_copy(update={"stop": ("never", stop), "max_tokens": 200})
    text = f"one E two EN {stop} three"
    generation = scripted([byte + 6 for byte in text.encode()]).generate("x", settings)
    shown = "".join(generation)
    assert shown == text[: text.index(stop)]
    last_byte = len(text[: text.index(stop) + len(stop)].encode())
    assert (generation.outcome.finish_reason, generation.outcome.generated_tokens) == ("stop", last_byte)


def test_characters_are_whole_in_every_piece(scripted: Scripts, recipe: Recipe) -> None:
    text = "é😀日本\n"
    ids = [byte + 6 for byte in text.encode()]
    settings = recipe.serve.model_copy(update={"max_tokens": len(ids)})
    pieces = list(scripted(ids).generate("x", settings))
    assert "".join(pieces) == text
    assert {piece for piece in pieces if piece} == set(text)


def test_a_character_cut_off_by_the_end_becomes_a_replacement(scripted: Scripts, recipe: Recipe) -> None:
    ids = [byte + 6 for byte in b"a\xff\xf0\x9f"]
    settings = recipe.serve.model_copy(update={"max_tokens": len(ids)})
    assert list(scripted(ids).generate("x", settings)) == ["a", "\ufffd", "", "", "\ufffd"]


def test_end_ids_of_a_hugging_face_folder_may_be_one_or_many(tmp_path: Path) -> None:
    assert generation_end_ids(tmp_path) == frozenset()
    path = tmp_path / "generation_config.json"
    for content, ids in (('{"eos_token_id": 7}', {7}), ('{"eos_token_id": [7, 9]}', {7, 9}), ("{}", set())):
        path.write_text(content)
        assert generation_end_ids(tmp_path) == ids
    path.write_text("[")
    with pytest.raises(UserError, match="not a JSON object"):
        generation_end_ids(tmp_path)


def test_an_int8_cache_is_used_where_it_is_asked_for(
    engines: dict[str, Engine], recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[torch.dtype] = []

    class Watched(KVCache):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self.keys_LBSHD.dtype)

    monkeypatch.setattr(torch_backend, "KVCache", Watched)
    for kind in ("float", "int8"):
        settings = recipe.serve.model_copy(update={"kv_cache": kind, "max_tokens": 3})
        assert "".join(engines["checkpoint"].generate("def parse(", settings))
    assert made == [torch.float32, torch.int8]
