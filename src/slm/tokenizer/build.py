"""The tokenizer artifact: learn the model, write it in both forms, measure it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from slm.core.artifact import Artifact, Draft
from slm.core.console import duration, say, size
from slm.corpus import read_documents
from slm.tokenizer.audit import audit, print_report
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.tokenizer import MODEL_FILE, Tokenizer
from slm.tokenizer.training import train_model


def build_tokenizer(config: TokenizerConfig, corpus: Artifact, draft: Draft) -> None:
    """Write `tokenizer.model`, its Hugging Face form, the chat template and `report.json`."""
    total_bytes = int(corpus.counts["train"]["bytes"])
    learned_from = min(total_bytes, config.sample_bytes)
    say(f"tokenizer: learning {config.vocab_size:,} ids from {size(learned_from)} of text")

    def texts() -> Iterator[str]:
        return (document.text for document in read_documents(corpus, "train"))

    began = time.monotonic()
    model = train_model(texts, total_bytes, config, str(corpus.path))
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
            "rare_share": report["rare"]["share_of_vocabulary"],
            **{f"{split}_bytes_per_token": figures["bytes_per_token"] for split, figures in report["splits"].items()},
        }
    )
