"""The tokenizer artifact: learn the model, write it in both forms, measure it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from slm.core.artifact import Artifact, Draft
from slm.core.console import duration, say, size
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.tokenizer.audit import audit, print_report
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.sample import Quota, quotas
from slm.tokenizer.shares import bytes_of_sources
from slm.tokenizer.tokenizer import MODEL_FILE, Tokenizer
from slm.tokenizer.training import largest_sample, peak_bytes, train_model

ALL = ""
"""Stands for all sources together where the sample is not weighed."""


def build_tokenizer(config: TokenizerConfig, corpus: Artifact, draft: Draft) -> None:
    """Write `tokenizer.model`, its Hugging Face form, the chat template and `report.json`."""
    wanted = sample_plan(corpus, config)
    learned_from = sum(quota.take_bytes for quota in wanted.values())
    say(
        f"tokenizer: learning {config.vocab_size:,} ids from {size(learned_from)} of text, "
        f"in at most {size(peak_bytes(learned_from))} of memory"
    )

    def texts() -> Iterator[tuple[str, str]]:
        documents = read_documents(corpus, "train")
        return ((document.source if config.weights else ALL, document.text) for document in documents)

    began = time.monotonic()
    model = train_model(texts, wanted, config, str(corpus.path))
    say(f"tokenizer: learned in {duration(time.monotonic() - began)}")
    (draft.path / MODEL_FILE).write_bytes(model)
    tokenizer = Tokenizer(model)
    write_hugging_face(tokenizer, draft.path)
    report = audit(tokenizer, corpus, config.threads)
    (draft.path / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    print_report(report)
    draft.counts.update(
        {
            "hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "learned_from_bytes": learned_from,
            "learned_from": {name: quota.take_bytes for name, quota in wanted.items() if name != ALL},
            "rare_share": report["rare"]["share_of_vocabulary"],
            **{f"{split}_bytes_per_token": figures["bytes_per_token"] for split, figures in report["splits"].items()},
        }
    )


def sample_plan(corpus: Artifact, config: TokenizerConfig) -> dict[str, Quota]:
    """What to learn from: how many bytes of each source, or of all together where none is weighed."""
    total, limit = int(corpus.counts["train"]["bytes"]), min(config.sample_bytes, largest_sample(config.memory_bytes))
    if not config.weights:
        return {ALL: Quota(min(total, limit), total)}
    held = bytes_of_sources(corpus)
    if set(config.weights) != set(held):
        given, there = ", ".join(config.weights), ", ".join(held)
        raise UserError(f"tokenizer.weights ({given}) must name exactly the sources of {corpus.path} ({there})")
    return quotas(held, config.weights, limit)
