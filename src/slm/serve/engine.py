"""One way to ask a model: our checkpoint, a Hugging Face folder, a GGUF in llama.cpp, an ONNX file in its runtime.

In: where the model lies, and a prompt (text, or messages of `role` and `content`). Out: a `Generation`,
an iterator of text pieces whose `outcome` tells afterwards why it ended, how many tokens there were and
how fast. The start token is added as in training; `<|eos|>` and `<|im_end|>` end an answer; text never
becomes a control token. Prompt and answer share the context: a prompt that fills it is refused, an
answer ends at it with reason "length".

Torch back ends compute in float32 and read the whole prompt anew for each answer, so that an answer
depends on prompt, settings and seed alone; a long chat pays for this with its prefill at each turn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from slm.core.artifact import MANIFEST, Artifact, newest_checkpoint, open_artifact, require_parent
from slm.core.errors import UserError
from slm.core.manifest import read_manifest
from slm.serve.config import ServeConfig

if TYPE_CHECKING:
    from slm.recipe import Recipe
    from slm.serve.vocabulary import Messages

ONNX_FILE = "model.onnx"
MOST_CONTEXT_TOKENS = 4096
"""Without serve.context_tokens no more is taken, however long the model: caches grow with it."""

FinishReason = Literal["stop", "length", "interrupted"]
Pieces = Generator[str, None, tuple[FinishReason, int]]
"""Text pieces; returns why it ended and how many tokens were generated."""


class Backend(Protocol):
    """What holds a model. `stream` is asked for no more tokens than the context has room for."""

    context_tokens: int
    has_template: bool

    def encode(self, text: str) -> list[int]: ...

    def encode_chat(self, messages: Messages) -> list[int]: ...

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Outcome:
    """What became of one answer. `generated_tokens` counts the token that ended it, if one did."""

    prompt_tokens: int
    generated_tokens: int = 0
    finish_reason: FinishReason = "interrupted"
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens by all the time since the question, reading the prompt included."""
        return self.generated_tokens / self.seconds if self.seconds else 0.0


class Generation(Iterator[str]):
    """The pieces of one answer as they come; `outcome` is complete when they end."""

    def __init__(self, pieces: Pieces, prompt_tokens: int) -> None:
        self.outcome = Outcome(prompt_tokens)
        self._pieces, self._began = pieces, time.perf_counter()

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
            self.outcome.generated_tokens += 1  # corrected at the end; exact enough if there is none
        except StopIteration as end:
            if end.value is not None:
                self.outcome.finish_reason, self.outcome.generated_tokens = end.value
                self.outcome.seconds = time.perf_counter() - self._began
            raise
        return piece

    def close(self) -> None:
        """Stop here: the back end gives up the rest."""
        self._pieces.close()
        if self.outcome.finish_reason == "interrupted":
            self.outcome.seconds = time.perf_counter() - self._began


class Engine:
    """A model that answers; use it as a context manager."""

    def __init__(self, backend: Backend, name: str, chat_tuned: bool | None = None) -> None:
        self.backend = backend
        self.has_template = backend.has_template
        self.name = name
        self.chat_tuned = chat_tuned if backend.has_template else False
        """True if it was trained on conversations, False if not, None if nothing tells."""

        self._of_base = self.chat_tuned
        self.fingerprint = ""
        """Of the checkpoint, or of the one that a Hugging Face folder was exported from; empty where nothing tells."""

    @classmethod
    def open(cls, where: str, recipe: Recipe) -> Engine:
        """The model at `where` with `serve.adapter` beside it; empty takes the newest checkpoint of the run."""
        engine = cls._open(where, recipe)
        if recipe.serve.adapter:
            try:
                engine.adapt(recipe.serve.adapter)
            except UserError:
                engine.backend.close()
                raise
        return engine

    @classmethod
    def _open(cls, where: str, recipe: Recipe) -> Engine:
        if not where:
            return _from_checkpoint(recipe.artifact("train"), recipe.artifact("tokenizer"), recipe)
        path = Path(where)
        if path.suffix == ".gguf":
            return _from_gguf(path, recipe)
        if path.suffix == ".onnx" or (path / ONNX_FILE).is_file():
            return _from_onnx(path if path.suffix == ".onnx" else path / ONNX_FILE, recipe)
        if (path / "config.json").is_file():
            return _from_hugging_face(path, recipe)
        folder = newest_checkpoint(path)
        if (folder / MANIFEST).is_file():
            checkpoint = open_artifact(folder, "train", verify=recipe.verify)
            tokenizer = open_artifact(_parent_path(folder, checkpoint.manifest, "tokenizer"), "tokenizer")
            return _from_checkpoint(checkpoint, tokenizer, recipe)
        found = "does not exist" if not path.exists() else "is a file of another kind" if path.is_file() else "has none"
        raise UserError(
            f"serve.model ({where}) must be a .gguf or .onnx file, a Hugging Face folder with config.json, or a "
            f"checkpoint (a run's folder, its train folder or one step of it), but it {found}; correct the path"
        )

    def adapt(self, folder: str) -> None:
        """Put the adapter in a folder beside the model, in place of any other; none takes it off.

        The base is held once. `UserError` where the adapter was trained beside another model, or where the model is run
        by another engine than ours.
        """
        from slm.model.lora import load_adapter
        from slm.serve.torch_backend import TorchBackend

        if not isinstance(self.backend, TorchBackend):
            raise UserError(
                f"serve.adapter ({folder}) cannot go beside {self.name}; name a checkpoint or a Hugging Face folder as "
                "serve.model, or give its adapter.gguf to llama.cpp itself (--lora)"
            )
        adapter = load_adapter(Path(folder)) if folder else None
        if adapter is not None and adapter.base and self.fingerprint and adapter.base != self.fingerprint:
            raise UserError(
                f"serve.adapter ({folder}) was trained beside checkpoint {adapter.base[:12]}, but {self.name} is "
                f"{self.fingerprint[:12]}; name the checkpoint that it was trained beside as serve.model"
            )
        self.backend.adapt(adapter)
        told = trained_on_chat(Path(folder)) if folder else None
        self.chat_tuned = self._of_base if told is None else told

    @property
    def context_tokens(self) -> int:
        """Room for prompt and answer together."""
        return self.backend.context_tokens

    def encode(self, prompt: str | Messages) -> list[int]:
        """Ids of a text with the start token, or of a conversation up to where the answer starts.

        White space around what is said in a conversation is taken off, as it is where conversations are learned.
        """
        for text in [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]:
            require_utf8(text)
        if isinstance(prompt, str):
            return self.backend.encode(prompt)
        return self.backend.encode_chat([{**message, "content": message["content"].strip()} for message in prompt])

    def generate(self, prompt: str | Messages, settings: ServeConfig) -> Generation:
        """Continue a text or answer a conversation; `UserError` if it leaves no room in the context."""
        ids = self.encode(prompt)
        room = self.context_tokens - len(ids)
        if room < 1:
            raise UserError(
                f"the prompt ({len(ids):,} tokens) must be shorter than the context of {self.name} "
                f"({self.context_tokens:,} tokens); shorten it, or raise serve.context_tokens if the model allows"
            )
        if not ids:
            raise UserError(f"the prompt is empty and {self.name} has no start token; give some text")
        return Generation(self.backend.stream(ids, min(settings.max_tokens, room), settings), len(ids))

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.backend.close()


def context_room(config: ServeConfig, longest: int) -> int:
    """Tokens of prompt and answer together, for a model that is meant for `longest`."""
    if config.context_tokens > longest:
        raise UserError(
            f"serve.context_tokens ({config.context_tokens:,}) must not exceed the length that the model is meant "
            f"for ({longest:,}); lower it"
        )
    return config.context_tokens or min(longest, MOST_CONTEXT_TOKENS)


def require_utf8(text: str) -> None:
    """Refuse text that came from bytes which are no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the prompt is not UTF-8 (U+{ord(text[error.start]):04X} at character {error.start}); convert it to UTF-8"
        ) from error


def _from_checkpoint(checkpoint: Artifact, tokenizer: Artifact, recipe: Recipe) -> Engine:
    from slm.model.load import load_model
    from slm.serve.torch_backend import TorchBackend
    from slm.serve.vocabulary import open_vocabulary

    require_parent(checkpoint, "tokenizer", tokenizer)
    backend = TorchBackend(load_model(checkpoint.path), open_vocabulary(tokenizer.path), recipe.serve)
    engine = Engine(backend, str(checkpoint.path), trained_on_chat(checkpoint.path))
    engine.fingerprint = checkpoint.fingerprint
    return engine


def _from_hugging_face(folder: Path, recipe: Recipe) -> Engine:
    from slm.model.hugging_face import from_pretrained
    from slm.serve.torch_backend import TorchBackend, generation_end_ids
    from slm.serve.vocabulary import open_vocabulary

    vocabulary = open_vocabulary(folder)
    vocabulary.end_ids |= generation_end_ids(folder)
    backend = TorchBackend(from_pretrained(folder), vocabulary, recipe.serve)
    engine = Engine(backend, str(folder), trained_on_chat(folder))
    engine.fingerprint = exported_from(folder)
    return engine


def _from_gguf(path: Path, recipe: Recipe) -> Engine:
    from slm.serve.llama_backend import LlamaBackend

    return Engine(LlamaBackend(path, recipe.serve), str(path), trained_on_chat(path))


def _from_onnx(path: Path, recipe: Recipe) -> Engine:
    from slm.serve.onnx_backend import OnnxBackend

    return Engine(OnnxBackend(path, recipe.serve), str(path), trained_on_chat(path))


def trained_on_chat(path: Path) -> bool | None:
    """Whether the checkpoint behind a model, or one that it began from, was trained on conversations.

    None if no manifest tells.
    """
    folder, told = _of_manifest(path), None
    visited: set[Path] = set()
    while folder not in visited and (folder / MANIFEST).is_file():
        visited.add(folder)
        try:
            manifest = read_manifest(folder / MANIFEST)
            trained = manifest["kind"] == "train"
            if trained and manifest["counts"].get("conversations"):
                return True
            told = False if trained else told
            folder = _parent_path(folder, manifest, "initial" if trained else "train")
        except (UserError, KeyError, TypeError):
            break  # a manifest.json of some other program, or an artifact made from no checkpoint
    return told


def exported_from(path: Path) -> str:
    """The fingerprint of the checkpoint that an exported model was made of; empty if no manifest tells."""
    try:
        return str(read_manifest(_of_manifest(path) / MANIFEST)["parents"]["train"]["fingerprint"])
    except (UserError, OSError, KeyError, TypeError):
        return ""  # a manifest.json of some other program, or none


def _of_manifest(path: Path) -> Path:
    """The artifact that a model's file or folder lies in; itself where it lies in none."""
    path = path.absolute()
    return next((place for place in (path, *path.parents[:2]) if (place / MANIFEST).is_file()), path)


def _parent_path(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    return Path(os.path.normpath(folder / manifest["parents"][name]["path"]))
