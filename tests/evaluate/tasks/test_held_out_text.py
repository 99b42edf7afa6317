"""Bits per byte of single texts are those of the model's forward over each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slm.evaluate.score import score
from slm.evaluate.tasks.held_out_text import run_text
from slm.evaluate.tasks.items import read


def test_bits_per_byte_of_each_text(task, scorer):
    texts = ["def return self", "世界 é", "é" * 70, "for in"]
    config = task("text", texts, suffix="txt", language="de")
    outcome = run_text(scorer, config, read(config, None), "")
    assert outcome.skipped == {"longer than the context": 1}
    for one, text in zip(outcome.results, [texts[0], texts[1], texts[3]], strict=True):
        ids = np.array(scorer.tokenizer.encode(text, bos=True), dtype=np.int32)
        nats = score(scorer.model, [ids], context=64, stride=32, batch_tokens=64)[0]
        assert one.value == pytest.approx(nats / math.log(2) / len(text.encode()), rel=1e-5)
        assert (one.metric, one.language, one.choices, one.gold) == ("bits_per_byte", "de", (text,), -1)
