"""llama.cpp as an engine: a GGUF file in, ids, log-probabilities and streamed text out.

The engine is the `xllamacpp` wheel's server in a process of its own, on 127.0.0.1 at a port that the
system picks, behind a key made for this one server. A process, because llama.cpp ends the program on
some damaged files and writes its log to the terminal's file descriptor; its cost is 0.2 s at the start.
The log is kept and its errors become part of our sentence. Every request is bounded in time and the
process ends with the `with` block, or with ours.

Text is never parsed for control tokens: prompts are tokenized with special parsing off, and in a chat
only the template's own text may spell them (llama.cpp's own chat endpoint lets `<|im_end|>` in a
message end the turn). Streamed pieces are whole characters: the server holds bytes back until they are
complete, shows U+FFFD for bytes that are no UTF-8, and drops an incomplete character at the very end.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import secrets
import select
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from slm.core.errors import DamagedError, UserError
from slm.serve.gguf_file import read_gguf

if TYPE_CHECKING:
    import numpy.typing as npt

START_SECONDS = 120.0
CONTROL_TOKEN_TYPE = 3
EVERY_TOKEN = 1 << 30
SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")


@dataclass(frozen=True, slots=True)
class LlamaSampling:
    """How llama.cpp picks the next token. The defaults are greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def request(self, ids: Sequence[int], max_tokens: int) -> dict[str, Any]:
        """The body of a completion request; the repetition penalty sees every token."""
        return {
            "prompt": list(ids),
            "n_predict": max_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repeat_penalty": self.repetition_penalty,
            "repeat_last_n": len(ids) + max_tokens,
            "stop": list(self.stop),
            "seed": self.seed,
            "samplers": list(SAMPLERS),
        }


GREEDY = LlamaSampling()


@dataclass(frozen=True, slots=True)
class LlamaEnd:
    """Why a continuation ended: `stop` at an end token or stop text, `length` at the limit; and its length."""

    reason: Literal["stop", "length"]
    generated_tokens: int


Pieces = Generator[str, None, LlamaEnd]


class LlamaCpp:
    """One GGUF file held by one llama.cpp process; use it as a context manager.

    `context_tokens` 0 takes the model's own length. `exact` computes the cache in F32 without flash
    attention, on the CPU, and checks every tensor for NaN: what a parity proof needs. `int8_cache` keeps keys and
    values in q8_0, which needs heads of a multiple of 32 numbers. `adapter` is a LoRA
    adapter as a GGUF file.
    """

    def __init__(
        self,
        path: Path,
        *,
        context_tokens: int = 0,
        exact: bool = False,
        int8_cache: bool = False,
        threads: int = 2,
        timeout_seconds: int = 600,
        adapter: Path | None = None,
    ) -> None:
        read_gguf(path)
        if adapter is not None:
            read_gguf(adapter)
        if importlib.util.find_spec("xllamacpp") is None:
            raise UserError(
                f"{path} needs llama.cpp, but the package xllamacpp is not installed; pip install 'xllamacpp>=2026.10'"
            )
        self.path, self._timeout = path, timeout_seconds
        self._key = secrets.token_hex(16)
        self._settings = {
            "path": str(path.absolute()),
            "adapter": str(adapter.absolute()) if adapter is not None else "",
            "api_key": self._key,
            "context_tokens": context_tokens,
            "exact": exact,
            "int8_cache": int8_cache,
            "threads": threads,
            "timeout_seconds": timeout_seconds,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._port = 0
        self._letter: int | None = None
        self._controls: tuple[str, ...] | None = None

    def __enter__(self) -> LlamaCpp:
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "slm.serve.llama_worker", json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            process_group=0,  # Ctrl-C reaches us, and we end it
        )
        try:
            self._port = self._address(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def tokenize(self, text: str, *, bos: bool = False, control: bool = False) -> list[int]:
        """Ids of `text`; with `control`, text that spells a control token becomes that token."""
        answer = self._post("/tokenize", {"content": text, "add_special": bos, "parse_special": control})
        return [int(token) for token in answer["tokens"]]

    def logprobs(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """Natural log-probabilities [V] of the token that follows `ids`, before any sampling option.

        The server forgets them where the token drawn is an unfinished character, so the draw is forced to
        an "A"; the bias moves what is drawn and not what is reported.
        """
        if self._letter is None:
            self._letter = self.tokenize("A")[-1]
        request = {**GREEDY.request(ids, 1), "n_probs": EVERY_TOKEN, "post_sampling_probs": False}
        request["logit_bias"] = [[self._letter, 1e6]]
        answer = self._post("/completion", request)
        entries = answer["completion_probabilities"][0]["top_logprobs"]
        result = np.full(len(entries), np.nan)
        for entry in entries:  # NaN is null in JSON, and stays NaN here
            if entry["logprob"] is not None:
                result[entry["id"]] = entry["logprob"]
        return result

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """Ids of the greedy continuation of `ids`, up to and with a token that ends a text."""
        answer = self._post("/completion", {**GREEDY.request(ids, max_tokens), "return_tokens": True})
        return [int(token) for token in answer["tokens"]]

    def complete(self, prompt: str | Sequence[int], max_tokens: int, sampling: LlamaSampling = GREEDY) -> Pieces:
        """Stream the continuation of a text (which gets the model's start token) or of ids; returns how it ended."""
        ids = self.tokenize(prompt, bos=True) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UserError(f"an empty prompt has no continuation in {self.path}, which has no start token; give text")
        return (yield from self._stream(sampling.request(ids, max_tokens)))

    def chat(self, messages: Sequence[Mapping[str, str]], max_tokens: int, sampling: LlamaSampling = GREEDY) -> Pieces:
        """Stream the answer to messages of `role` and `content`, through the template in the file."""
        return (yield from self.complete(self.render_chat(messages), max_tokens, sampling))

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation up to where the answer starts; contents never become control tokens."""
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        hollow = [{"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)]
        template = str(self._post("/apply-template", {"messages": hollow})["prompt"])
        ids = self.tokenize("", bos=True)
        if ids and any(
            template.startswith(text) and self.tokenize(text, control=True) == ids for text in self.controls()
        ):
            ids = []
        for segment in re.split(f"({'|'.join(map(re.escape, self.controls()))})", template):
            if segment in self.controls():
                ids += self.tokenize(segment, control=True)
            elif segment:
                ids += self.tokenize(_fill(segment, marks, [message["content"] for message in messages]))
        return ids

    def controls(self) -> tuple[str, ...]:
        """The texts of the file's control tokens, longest first."""
        if self._controls is None:
            self._controls = control_tokens(self.path)
        return self._controls

    def _address(self, process: subprocess.Popen[bytes]) -> int:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline().decode() if ready else ""
        if line:
            return int(line.rsplit(":", 1)[1])
        if not ready:
            raise UserError(
                f"llama.cpp did not open {self.path} within {START_SECONDS:.0f} s; is the machine overloaded?"
            )
        process.wait(5)
        raise DamagedError(
            f"llama.cpp cannot open {self.path} ({self._complaint()}); export it again, or give another .gguf file"
        )

    def _complaint(self) -> str:
        """The most telling line that llama.cpp wrote: its first error."""
        if self._log is None:
            return "it ended"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        errors = [line.split(" E ", 1)[1] for line in lines if " E " in line]
        telling = errors[0] if errors else next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return " ".join(telling.split())[:200]

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._open(path, body) as response:
            return dict(json.loads(response.read()))

    def _stream(self, body: Mapping[str, Any]) -> Pieces:
        event: dict[str, Any] = {}
        with self._open("/completion", {**body, "stream": True}) as response:
            try:
                for line in response:
                    if line.startswith(b"data: "):
                        event = json.loads(line.removeprefix(b"data: "))
                        if event.get("content"):
                            yield str(event["content"])
            except (http.client.HTTPException, OSError) as error:
                raise DamagedError(f"llama.cpp ended while answering from {self.path} ({self._complaint()})") from error
        if not event.get("stop"):
            raise DamagedError(f"llama.cpp broke off while answering from {self.path} ({self._complaint()})")
        return LlamaEnd("length" if event["stop_type"] == "limit" else "stop", int(event["tokens_predicted"]))

    def _open(self, path: str, body: Mapping[str, Any]) -> http.client.HTTPResponse:
        """The answer to one POST, on a connection of its own (0.1 ms); the server drops idle ones after 5 s."""
        if self._process is None:
            raise RuntimeError("LlamaCpp is used outside its with block")
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}", "Connection": "close"}
        try:
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
        except TimeoutError as error:
            connection.close()
            raise UserError(
                f"llama.cpp with {self.path} gave no answer within {self._timeout} s; ask for less"
            ) from error
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise DamagedError(f"llama.cpp ended while answering from {self.path} ({self._complaint()})") from error
        if response.status != http.client.OK:
            with response:
                raise UserError(f"llama.cpp refused a request to {self.path}: {_message(response.read())}")
        return response


def control_tokens(path: Path) -> tuple[str, ...]:
    """Texts of the tokens that the file marks as control tokens, longest first."""
    metadata = read_gguf(path).metadata
    tokens, types = (metadata.get(f"tokenizer.ggml.{name}", ()) for name in ("tokens", "token_type"))
    if not isinstance(tokens, list) or len(tokens) != np.size(types):
        raise DamagedError(f"{path} has no vocabulary with a type for each of its tokens; export or download it again")
    texts = [text for text, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN_TYPE]
    return tuple(sorted(texts, key=len, reverse=True))


def _fill(segment: str, marks: Sequence[str], contents: Sequence[str]) -> str:
    """`segment` with every mark replaced by its content, in one pass: contents are not searched for marks."""
    by_mark = dict(zip(marks, contents, strict=True))
    return re.sub("\ue000[0-9]+\ue001", lambda found: by_mark.get(found.group(), found.group()), segment)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")
