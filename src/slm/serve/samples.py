"""The stage's work: sample prompts answered, printed and written to `samples.json`.

The file holds `engine` (what answered), `settings` and `samples`, one per prompt and mode with prompt,
text, why it ended, token counts and tokens per second.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from slm.core.artifact import Draft
from slm.core.console import say
from slm.recipe import Recipe
from slm.serve.config import ServeConfig
from slm.serve.engine import Engine

SAMPLES = "samples.json"


def write_samples(draft: Draft, recipe: Recipe, where: str) -> None:
    """Answer each prompt greedily and sampled, from the GGUF file at `where` or else the run's checkpoint."""
    if not where:
        say("serve: export.formats holds no GGUF, so the checkpoint answers instead of llama.cpp")
    name = f"llama.cpp (xllamacpp {importlib.metadata.version('xllamacpp')})" if where else "torch, from the checkpoint"
    settings = recipe.serve
    greedy = settings.model_copy(update={"temperature": 0.0, "repetition_penalty": 1.0})
    samples = []
    with Engine.open(where, recipe) as engine:
        say(f"serve: {Path(engine.name).name} in {name}")
        for prompt in settings.sample_prompts:
            for mode, chosen in (("greedy", greedy), ("sampled", settings)):
                sample = answer(engine, prompt, chosen) | {"mode": mode}
                say(
                    f"--- {mode}, {sample['generated_tokens']} tokens at {sample['tokens_per_second']:.0f} tokens/s ---"
                )
                say(prompt + sample["text"])
                samples.append(sample)
    content = {
        "engine": name,
        "model": Path(engine.name).name,
        "settings": settings.identity(),
        "samples": samples,
    }
    (draft.path / SAMPLES).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    generated = sum(sample["generated_tokens"] for sample in samples)
    seconds = sum(sample["seconds"] for sample in samples)
    draft.counts.update(
        engine=name,
        model=Path(engine.name).name,
        samples=len(samples),
        generated_tokens=generated,
        tokens_per_second=round(generated / seconds, 1) if seconds else 0.0,
    )


def answer(engine: Engine, prompt: str, settings: ServeConfig) -> dict[str, Any]:
    """One answer with its figures."""
    generation = engine.generate(prompt, settings)
    text = "".join(generation)
    outcome = generation.outcome
    return {
        "prompt": prompt,
        "text": text,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "generated_tokens": outcome.generated_tokens,
        "seconds": round(outcome.seconds, 4),
        "tokens_per_second": round(outcome.tokens_per_second, 1),
    }
