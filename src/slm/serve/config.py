"""How text is generated."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.config import Config, neutral


class Timing(Config):
    """How exported and compressed models are timed, each in processes of its own."""

    turns: int = Field(0, ge=0)
    """How often each is opened cold and warm, in turns with the others; 0 leaves speeds out."""
    prompt_tokens: int = Field(128, ge=2)
    """Length of the prompt whose reading is timed, at most half of the model's length."""
    answer_tokens: int = Field(64, ge=2)
    """Tokens whose generation is timed."""


class ServerConfig(Config):
    """A model behind a server that speaks OpenAI's chat protocol, such as vLLM's or llama.cpp's."""

    url: str = neutral("")
    """Address up to /v1, such as http://localhost:8000/v1; empty leaves out what needs the server, with that reason."""
    model: str = ""
    """The model that is asked for; needed with url."""
    key_variable: str = neutral("OPENAI_API_KEY")
    """The environment variable that holds the key; a server without keys needs none."""
    timeout_seconds: float = neutral(120.0, gt=0)
    """Longest wait for an answer, of each attempt."""
    attempts: int = neutral(3, ge=1)
    """How often a question is asked before the server counts as stopped; the wait doubles from a second on, or is
    what the server asks for (Retry-After), at most a minute."""

    @model_validator(mode="after")
    def _is_whole(self) -> ServerConfig:
        if bool(self.url) != bool(self.model):
            raise ValueError("url and model go together: where the server is, and which model is asked for")
        return self


class ServeConfig(Config):
    """A model that answers. The sampling settings shape the samples that the stage publishes."""

    sample_prompts: tuple[str, ...] = Field(
        ("def main():\n", "import os\n", "class Node:\n    def __init__(self"), min_length=1
    )
    """Prompts that the serve stage answers, once greedily and once sampled, and publishes in samples.json."""
    model: str = neutral("")
    """What generates and chats: a checkpoint, a Hugging Face folder, a .gguf or .onnx file; empty takes the run's."""
    adapter: str = neutral("")
    """An adapter beside that model, a folder of `slm adapter` or of peft; in a chat `/adapter FOLDER` changes it."""
    prompt: str | None = neutral(None)
    """The text to continue, exactly as typed; `-`, or none with something piped in, reads standard input."""
    chat_format: Literal["auto", "template", "plain"] = neutral("auto")
    """How chat turns become a prompt: by the chat template, or plainly continued; auto asks how it was trained."""
    max_tokens: int = Field(128, ge=1)
    """Longest continuation."""
    temperature: float = Field(0.8, ge=0)
    """0 is greedy."""
    top_k: int = Field(50, ge=0)
    """Sample among this many likeliest tokens; 0 is off."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Sample among the likeliest tokens that hold this much probability; 1 is off."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Drop tokens less likely than this share of the likeliest; 0 is off."""
    repetition_penalty: float = Field(1.0, ge=1)
    """Divide positive and multiply negative logits of tokens already seen; 1 is off."""
    stop: tuple[str, ...] = ()
    """Texts that end the continuation; they are not printed."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of sampling."""
    context_tokens: int = Field(0, ge=0)
    """Room for prompt and answer together; 0 takes the model's own length, at most 4,096."""
    kv_cache: Literal["float", "int8"] = "float"
    """Keys and values of tokens already seen: as they come (float32; F16 in llama.cpp), or as 8-bit integers (q8_0)."""
    threads: int = neutral(2, ge=1)
    """CPU threads."""

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("a stop text must not be empty, since it would end every answer at once; remove it")
        return stop
