"""llama.cpp's logits at every position against its own server's, which asks for one at a time."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from slm.core.errors import DamagedError, UserError
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.serve import llama_scores
from slm.serve.llama_cpp import LlamaCpp
from slm.serve.llama_scores import CHUNK_TOKENS, Library, LlamaScores


def log_softmax(logits_TV: np.ndarray) -> np.ndarray:
    shifted = logits_TV.astype(np.float64) - logits_TV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["gguf", "q8_0"])
def test_they_are_what_its_server_says_at_each_position(places: dict[str, str], name: str) -> None:
    path = Path(places["gguf"]) if name == "gguf" else Path(places["gguf"]).with_name("model-q8_0.gguf")
    ids = [1, *range(300, 340)]
    with LlamaScores(path, 1) as scores, LlamaCpp(path, context_tokens=256, threads=1) as llama:
        found = log_softmax(scores.logits(ids))
        assert found.shape == (len(ids), 512)
        for place in (0, 7, 40):
            np.testing.assert_allclose(found[place], llama.logprobs(ids[: place + 1]), atol=1e-4)


def test_rows_do_not_remember_each_other_and_may_be_longer_than_a_chunk(recipe: Recipe, places: dict[str, str]) -> None:
    import torch

    draw = np.random.default_rng(0)
    long = draw.integers(300, 512, size=CHUNK_TOKENS + 90)
    model = load_model(recipe.artifact("train").path, attention="sdpa").eval()
    with torch.inference_mode():
        ours = model(torch.from_numpy(long)[None])[0].numpy()
    with LlamaScores(Path(places["gguf"]), 1) as scores:
        scores.logits([5, 6, 7])
        np.testing.assert_allclose(scores.logits(long.tolist()), ours, atol=5e-3)  # its cache is F16


def test_a_damaged_file_and_an_unknown_library_end_in_a_sentence(
    places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(Path(places["gguf"]).read_bytes()[:5000])
    with pytest.raises(DamagedError, match=r"short\.gguf"):
        LlamaScores(short, 1)
    monkeypatch.setattr(llama_scores, "read_gguf", lambda _: None)  # what our reader lets pass and llama.cpp does not
    with pytest.raises(DamagedError, match=r"llama\.cpp ended while reading .*short\.gguf .*export it again"):
        LlamaScores(short, 1).__enter__()
    broken = "import sys; sys.exit(3)"
    start = llama_scores.subprocess.Popen  # type: ignore[attr-defined]
    monkeypatch.setattr(
        llama_scores.subprocess,  # type: ignore[attr-defined]
        "Popen",
        lambda words, **options: start([words[0], "-c", broken], **options),
    )
    with pytest.raises(UserError, match=r"lays out its settings differently .*requirements\.lock"):
        LlamaScores(Path(places["gguf"]), 1).__enter__()


def test_settings_that_do_not_begin_as_the_header_says_are_refused(
    places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_scores, "FIRST_SETTINGS", (512, 2048, 512, 2))
    with pytest.raises(SystemExit, match="3"):
        Library(places["gguf"], 1)


def test_the_library_in_this_process_says_the_same(places: dict[str, str]) -> None:
    assert importlib.util.find_spec("xllamacpp") is not None
    library = Library(places["gguf"], 1)
    with LlamaScores(Path(places["gguf"]), 1) as scores:
        np.testing.assert_array_equal(library.logits(np.array([1, 300, 301], np.int32)), scores.logits([1, 300, 301]))
