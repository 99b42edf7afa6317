"""The model card of an exported folder, so that it may be pushed to the Hugging Face hub as it lies there.

In: what was exported and measured. Out: `README.md` with the front matter that the hub reads, the figures of this
folder with their intervals, what it was trained on under which licences, and how to load it. The card of a release,
with evaluations and limits, is `slm.release.cards`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from slm.core.console import size
from slm.export.subject import Subject
from slm.model.counting import num_parameters

README = "README.md"


def write_card(folder: Path, subject: Subject, facts: Mapping[str, Any], step: Mapping[str, Any], licence: str) -> None:
    """Write the card of a folder; `step` are the checkpoint's counts, `licence` is the model's own, if it has one."""
    card = ModelCardData(
        license=licence.lower() or None,
        library_name="transformers",
        pipeline_tag="text-generation",
    )
    (folder / README).write_text(f"---\n{card.to_yaml()}\n---\n\n{_text(subject, facts, step)}", encoding="utf-8")


def _text(subject: Subject, facts: Mapping[str, Any], step: Mapping[str, Any]) -> str:
    config = subject.model.config
    lines = [
        f"# {subject.name}",
        "",
        f"A language model of {num_parameters(config):,} parameters ({config.layers} layers of width {config.width:,}, "
        f"{config.max_seq_len:,} tokens of context), trained on {step.get('tokens', 0):,} tokens. Weights: "
        f"{facts['form']}.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        "```",
        "",
        "| figure | value |",
        "|---|---|",
        f"| size | {size(facts['size_bytes'])} |",
        *_figures(facts),
        f"| checkpoint | `{subject.checkpoint[:12]}` |",
        f"| tokenizer | `{subject.tokenizer.hash[:12]}`, {subject.tokenizer.vocab_size:,} entries |",
        "",
        "## Training data",
        "",
        *([f"- {one.name}: {one.origin or 'origin unknown'}; licence {one.licence or 'unknown'}"
           for one in subject.datasets] or ["Not recorded."]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _figures(facts: Mapping[str, Any]) -> list[str]:
    cost = facts.get("cost")
    if cost is None:
        return ["| held-out text | not measured |"]
    low, high = cost["interval_95"]
    return [
        f"| bits per byte of held-out text, by {facts['engine']} | {cost['bits_per_byte']:.4f} |",
        f"| its rise beside float32 (95 % interval) | {cost['increase']:+.5f} ({low:+.5f} to {high:+.5f}) |",
        f"| mean KL from float32, nats a token | {cost['mean_kl']:.3g} |",
        f"| same likeliest token as in float32 | {100 * cost['top1_agreement']:.1f} % |",
    ]
