"""Which numbers to take of a trained model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slm.core.config import Config, neutral
from slm.evaluate.tasks.config import CHOICE as CHOICE
from slm.evaluate.tasks.config import HarnessConfig, SandboxConfig
from slm.evaluate.tasks.config import TaskConfig as TaskConfig
from slm.serve.config import ServerConfig

Control = Literal["random", "unigram"]


class EvaluateConfig(Config):
    """Model to numbers."""

    context_tokens: int = Field(0, ge=0)
    """Window for scoring held-out documents; 0 takes the row length trained at."""
    stride_tokens: int = Field(0, ge=0)
    """Step of the window; 0 takes half of it, so each token sees at least half a window."""
    sources: tuple[str, ...] = ()
    """Sources whose held-out documents are scored; empty scores those of all."""
    max_documents: int = Field(0, ge=0)
    """Held-out documents to score, taken at even distances; 0 scores all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic: fp32 for numbers that are compared; bf16 is faster and moves them in the third digit."""
    kv_cache: Literal["float", "int8"] = "float"
    """int8 scores held-out documents and tasks through a cache of 8-bit keys and values, as serve.kv_cache does."""
    golden: str = ""
    """A JSON Lines table of golden prompts that the model must pass; empty skips it."""
    tasks: tuple[str, ...] = ()
    """Tasks to run: names of task_files, scored here, or else of lm-eval, such as [arc_easy, hellaswag]."""
    task_files: tuple[TaskConfig, ...] = ()
    """Tasks whose items lie in files here; evaluate.tasks says which of them are run."""
    robustness: tuple[str, ...] = ()
    """Multiple-choice tasks among these to ask in other formats and orders of their choices too, for the spread."""
    controls: tuple[Control, ...] = ()
    """Models that are asked the same items for comparison: random (the model's shape, fresh weights; costs what the
    model costs) and unigram (frequencies of tokens; costs little)."""
    teacher: str = neutral("")
    """A run with the same tokenizer, to see how often both find the same token likeliest on held-out text and how far
    the model's distributions are from its; the evaluation is made from its fingerprint, not its path."""
    replies: int = Field(0, ge=0)
    """Held-out conversations whose last question is answered greedily, to see whether answers keep to the chat
    template; 0 asks none."""
    reply_tokens: int = Field(128, ge=1)
    """Longest of these answers: one that has not ended its turn by then has not kept to it."""
    harness: HarnessConfig = HarnessConfig()
    judge: ServerConfig = ServerConfig()
    """Who judges answers to open questions."""
    sandbox: SandboxConfig = SandboxConfig()
    batch_tokens: int = neutral(4_096, ge=1)
    """Positions scored in one forward pass; on a CPU larger is slower, on a GPU faster."""
    device: Literal["auto", "cpu", "cuda"] = neutral("auto")
    """Where to compute; auto takes a GPU where there is one."""
    threads: int = neutral(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> EvaluateConfig:
        files = tuple(one.name for one in self.task_files)
        named: dict[str, tuple[str, ...]] = {"tasks": self.tasks, "task_files": files, "controls": self.controls}
        for key, names in named.items():
            for name in dict.fromkeys(names):
                if names.count(name) > 1:
                    raise ValueError(f"{key}: {name} stands there twice; give each a name of its own")
        choice = [one.name for one in self.task_files if one.layout in CHOICE and one.name in self.tasks]
        for name in self.robustness:
            if name not in choice:
                raise ValueError(
                    f"robustness: {name} must be a multiple-choice task of task_files that tasks names; those are "
                    f"{', '.join(choice) or 'none'}"
                )
        return self
