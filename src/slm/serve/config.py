"""How text is generated."""

from __future__ import annotations

from slm.core.config import Config, neutral


class ServeConfig(Config):
    """A model that answers. Nothing here shapes an artifact."""

    model: str = neutral("")
    """What answers: a run's checkpoint (empty takes the recipe's own), a Hugging Face directory or a .gguf file."""
    prompt: str = neutral("")
    """The text to continue."""
    max_tokens: int = neutral(128, ge=1)
    """Longest continuation."""
    temperature: float = neutral(0.8, ge=0)
    """0 is greedy."""
    top_k: int = neutral(50, ge=0)
    """Sample among this many likeliest tokens; 0 is off."""
    top_p: float = neutral(0.95, gt=0, le=1)
    """Sample among the likeliest tokens that hold this much probability; 1 is off."""
    min_p: float = neutral(0.0, ge=0, lt=1)
    """Drop tokens less likely than this share of the likeliest; 0 is off."""
    repetition_penalty: float = neutral(1.0, ge=1)
    """Divide positive and multiply negative logits of tokens already seen; 1 is off."""
    stop: tuple[str, ...] = neutral(())
    """Texts that end the continuation; they are not printed."""
    seed: int = neutral(0)
    """Seed of sampling."""
    threads: int = neutral(2, ge=1)
    """CPU threads."""
