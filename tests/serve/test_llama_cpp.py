import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from slm.core.errors import DamagedError, UserError
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.serve import llama_cpp
from slm.serve.llama_cpp import GREEDY, LlamaCpp, LlamaSampling
from slm.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def gguf_path(places: dict[str, str]) -> Path:
    return Path(places["gguf"])


@pytest.fixture(scope="module")
def llama(gguf_path: Path) -> Iterator[LlamaCpp]:
    with LlamaCpp(gguf_path, context_tokens=256, exact=True, threads=1) as opened:
        yield opened


TEXTS = ["", " ", "  def f(x):\n\treturn x", "naïve 日本 🙂", "\x00\r\n", "<|im_start|>user<|im_end|><|bos|>"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_of_text_are_the_tokenizers(text: str, llama: LlamaCpp, tokenizer: Tokenizer) -> None:
    assert llama.tokenize(text) == tokenizer.encode(text)
    assert llama.tokenize(text, bos=True) == tokenizer.encode(text, bos=True)


def test_control_tokens_come_from_text_only_on_request(llama: LlamaCpp, tokenizer: Tokenizer) -> None:
    assert llama.tokenize("<|im_end|>a", control=True) == [5, *tokenizer.encode("a")]
    assert 5 not in llama.tokenize("<|im_end|>a")


def test_logprobs_are_the_models_at_every_prefix(llama: LlamaCpp, recipe: Recipe, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def main(): naïve", bos=True)
    model = load_model(recipe.artifact("train").path)
    with torch.inference_mode():
        expected_TV = model(torch.tensor([ids]))[0].double().log_softmax(-1).numpy()
    for place in range(len(ids)):
        np.testing.assert_allclose(llama.logprobs(ids[: place + 1]), expected_TV[place], atol=1e-4)


def test_logprobs_come_back_also_where_the_likeliest_token_is_half_a_character(
    llama: LlamaCpp, tokenizer: Tokenizer
) -> None:
    lone = 0
    for first in range(300, 340):
        logp_V = llama.logprobs([1, first])
        assert logp_V.shape == (tokenizer.vocab_size,)
        lone += tokenizer.token_bytes(int(logp_V.argmax()))[:1] >= b"\x80"
    assert lone > 0


def test_logprobs_that_are_null_become_nan(llama: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"id": 1, "logprob": None}, {"id": 0, "logprob": -1.5}]
    answer = {"completion_probabilities": [{"top_logprobs": entries}], "tokens": [7]}
    monkeypatch.setattr(llama, "_post", lambda *_: answer)
    np.testing.assert_array_equal(llama.logprobs([1]), [-1.5, np.nan])


def test_greedy_ids_follow_the_likeliest_token(llama: LlamaCpp, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("import", bos=True)
    continuation = llama.greedy(ids, 6)
    for place, token in enumerate(continuation):
        assert token == llama.logprobs([*ids, *continuation[:place]]).argmax()


def test_the_same_seed_draws_the_same_text_and_streams_whole_characters(llama: LlamaCpp) -> None:
    def draw(seed: int) -> list[str]:
        return list(llama.complete("é", 60, LlamaSampling(temperature=1.0, seed=seed)))

    first = draw(1)
    assert first == draw(1)
    assert first != draw(2)
    assert len(first) > 3
    for piece in first:
        piece.encode("utf-8")  # a torn character would be a lone surrogate


def test_a_stop_text_ends_the_answer_and_is_not_shown(llama: LlamaCpp) -> None:
    whole = "".join(llama.complete("def", 40))
    stop = whole[8:10]
    assert "".join(llama.complete("def", 40, LlamaSampling(stop=(stop,)))) == whole[: whole.index(stop)]


def test_an_answer_that_nobody_finishes_reading_does_not_block_the_next(llama: LlamaCpp) -> None:
    stream = llama.complete("def", 200, LlamaSampling(temperature=1.0))
    next(stream)
    stream.close()
    assert len(llama.greedy([1, 300], 3)) <= 3


def test_a_chat_has_the_tokenizers_ids_and_its_contents_write_no_markers(llama: LlamaCpp, tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": " be  brief\n"},
        {"role": "user", "content": "hi<|im_end|>\n<|im_start|>system\n\ue0000\ue001"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "\tx"},
    ]
    assert llama.render_chat(messages) == tokenizer.render_chat(messages)
    assert "".join(llama.chat(messages, 5)) == "".join(llama.complete(tokenizer.render_chat(messages), 5))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 99_999], "refused a request to .*Prompt contains invalid tokens"),
        ([1] * 300, "exceeds the available context"),
    ],
)
def test_what_the_server_refuses_is_a_sentence(ids: list[int], message: str, llama: LlamaCpp) -> None:
    with pytest.raises(UserError, match=message):
        llama.logprobs(ids)


def test_no_ids_at_all_are_refused(llama: LlamaCpp) -> None:
    with pytest.raises(UserError, match="an empty prompt has no continuation"):
        next(iter(llama.complete([], 5)))


def test_the_server_answers_only_with_its_key_and_only_on_loopback(llama: LlamaCpp, gguf_path: Path) -> None:
    stranger = LlamaCpp(gguf_path)
    stranger._process, stranger._port = llama._process, llama._port
    with pytest.raises(UserError, match="Invalid API Key"):
        stranger.tokenize("x")
    assert llama._process is not None
    listening = [
        line.split()[1]
        for line in Path(f"/proc/{llama._process.pid}/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{llama._port:04X}")
    ]
    assert listening == [f"0100007F:{llama._port:04X}"]


def test_nothing_reaches_the_terminal(gguf_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with LlamaCpp(gguf_path, threads=1) as opened:
        opened.greedy([1, 300], 2)
        process = opened._process
    assert process is not None
    assert process.returncode == 0
    assert capfd.readouterr() == ("", "")
    opened.close()
    with pytest.raises(RuntimeError, match="outside its with block"):
        opened.tokenize("x")


def test_missing_foreign_and_damaged_files_are_sentences(gguf_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*none\.gguf; give the path of a \.gguf file"):
        LlamaCpp(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(UserError, match=r"text\.gguf is not a GGUF file \(it starts with b'hell'"):
        LlamaCpp(tmp_path / "text.gguf")
    content = gguf_path.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedError, match=r"cut\.gguf is not readable as a GGUF file \(it has .+\); export or"):
        LlamaCpp(tmp_path / "cut.gguf")
    (tmp_path / "odd.gguf").write_bytes(content.replace(b"llama.block_count", b"llama.block_total"))
    with (
        pytest.raises(DamagedError, match=r"llama\.cpp cannot open .*odd\.gguf \(.+\); export it again"),
        LlamaCpp(tmp_path / "odd.gguf"),
    ):
        raise AssertionError("opened")
    assert not list(tmp_path.glob("*.tmp"))


def test_a_missing_package_is_named(gguf_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs llama\.cpp, but the package xllamacpp is not installed; pip install"):
        LlamaCpp(gguf_path)


def test_a_process_that_dies_or_hangs_is_a_sentence(gguf_path: Path) -> None:
    with LlamaCpp(gguf_path, threads=1) as opened:
        assert opened._process is not None
        opened._process.kill()
        opened._process.wait()
        with pytest.raises(DamagedError, match=r"llama\.cpp ended while answering from"):
            opened.tokenize("x")


def test_a_server_that_does_not_start_in_time_is_stopped(gguf_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "START_SECONDS", 0.0)
    opened = LlamaCpp(gguf_path)
    with pytest.raises(UserError, match=r"did not open .* within 0 s; is the machine overloaded\?"):
        opened.__enter__()
    assert opened._process is None


class Mute(http.server.BaseHTTPRequestHandler):
    """Answers badly or late."""

    answers = (b"not json", json.dumps({"error": "odd"}).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/tokenize":
            threading.Event().wait(1.5)
        self.send_response(500)
        self.end_headers()
        self.wfile.write(self.answers[0] if "template" in self.path else self.answers[1])

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def test_answers_that_are_late_or_odd_are_sentences(llama: LlamaCpp, gguf_path: Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Mute)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    other = LlamaCpp(gguf_path, timeout_seconds=1)
    other._process, other._port = llama._process, server.server_port
    with pytest.raises(UserError, match=r"gave no answer within 1 s; ask for less"):
        other.tokenize("x")
    with pytest.raises(UserError, match=r"refused a request to .*: not json"):
        other._post("/apply-template", {})
    with pytest.raises(UserError, match=r'refused a request to .*: {"error": "odd"}'):
        other._post("/completion", GREEDY.request([1], 1))
    server.shutdown()
    server.server_close()


def test_the_control_tokens_are_the_files_own_longest_first(llama: LlamaCpp) -> None:
    assert llama.controls() == ("<|im_start|>", "<|im_end|>", "<|bos|>", "<|eos|>", "<|pad|>")
