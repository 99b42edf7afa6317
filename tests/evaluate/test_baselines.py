"""Baselines equal their definitions and the command-line tools."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

import slm.corpus
from slm.evaluate.baselines import XzMeter, count_targets, gzip_bytes, unigram_nats
from slm.shards.reader import ShardReader

TEXT = ("def f(x):\n    return x + 1\n\n" * 40 + "é世界").encode()


@pytest.mark.skipif(not shutil.which("gzip"), reason="needs the gzip program")
def test_gzip_is_the_size_that_the_program_gives():
    done = subprocess.run(["gzip", "-9", "-n", "-c"], input=TEXT, capture_output=True, check=True)
    assert abs(gzip_bytes(TEXT) - len(done.stdout)) <= 2


@pytest.mark.skipif(not shutil.which("xz"), reason="needs the xz program")
def test_xz_is_the_size_that_the_program_gives():
    meter = XzMeter()
    for part in (TEXT, b"", TEXT[:100]):
        meter.feed(part)
    done = subprocess.run(["xz", "-9", "-c", "-T1"], input=TEXT + TEXT[:100], capture_output=True, check=True)
    assert abs(meter.finish() - len(done.stdout)) <= 8


def test_train_tokens_are_counted_once_each_without_bos(trained, tokenizer):
    counts = count_targets(ShardReader(trained.artifact("shards"), "train"))
    expected: Counter[int] = Counter()
    for document in slm.corpus.read_documents(trained.artifact("corpus"), "train"):
        expected.update(tokenizer.encode(document.text, eos=True))
    assert {token: count for token, count in enumerate(counts.tolist()) if count} == dict(expected)
    assert counts[tokenizer.bos_id] == 0
    assert counts[tokenizer.eos_id] == trained.artifact("shards").counts["train"]["documents"]


def test_unigram_nats_follow_add_one_smoothing():
    train, held_out = np.array([3, 0, 1]), np.array([2, 1, 0])
    expected = -2 * math.log(4 / 7) - math.log(1 / 7)
    assert unigram_nats(train, held_out) == pytest.approx(expected)
