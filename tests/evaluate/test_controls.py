"""Controls: fresh weights of the model's shape, and frequencies alone, asked through the same scorer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from slm.evaluate.baselines import count_targets, unigram_nats
from slm.evaluate.controls import controls, unigram
from slm.evaluate.generation import Prompt
from slm.evaluate.scorer import Scorer
from slm.model.load import load_model
from slm.model.transformer import build
from slm.shards.reader import ShardReader


@pytest.fixture(scope="module", name="train_V")
def frequencies(trained):
    return count_targets(ShardReader(trained.artifact("shards"), "train"))


@pytest.fixture
def one(scorer, train_V, tmp_path):
    """A control by its name, good until the test ends."""
    opened = []

    def control(name: str, seed: int = 0) -> Scorer:
        opened.append(controls([name], scorer, train_V, seed, tmp_path, "asked"))
        found, made = next(opened[-1])
        assert found == name
        return made

    return control


def test_random_is_what_the_training_began_from(trained, scorer, one):
    control = one("random", trained.seed).model
    expected, other = build(scorer.model.config, trained.seed), build(scorer.model.config, trained.seed + 1)
    for name, weight in control.state_dict().items():
        assert torch.equal(weight, expected.state_dict()[name])
    assert not torch.equal(control.embedding.weight, other.embedding.weight)
    assert control.config == load_model(trained.artifact("train").path).config


def test_unigram_says_every_token_with_its_share_after_any_context(tokenizer, train_V, one):
    control = one("unigram")
    contexts = ["", "def return self", "é" * 20]
    for context in contexts:
        pair = control.pair(context, " None for in 世")
        (found,) = control.likelihoods([pair], "made")
        counts = np.bincount(pair.ids[pair.first :], minlength=len(train_V))
        assert found.logprob == pytest.approx(-unigram_nats(train_V, counts), abs=1e-4)
    logits_BTV = control.model(torch.tensor([tokenizer.encode("class", bos=True)]))
    shares_V = (train_V + 1) / (train_V.sum() + len(train_V))
    np.testing.assert_allclose(logits_BTV.softmax(-1)[0, -1].detach().numpy(), shares_V, rtol=1e-5)


def test_unigram_writes_its_most_frequent_token_greedily_and_draws_by_share(tokenizer, train_V, one):
    control = one("unigram")
    ids = control.prompt_ids("def return")
    (text,) = control.answers([Prompt(ids, 7)], "made")
    likeliest = int(train_V.argmax())
    assert text == tokenizer.decode([likeliest] * 7)
    drawn = control.answers([Prompt(ids, 40, temperature=1.0, seed=seed) for seed in range(2)], "made")
    assert drawn[0] != drawn[1]


def test_answers_of_controls_are_kept_apart_and_survive(scorer, train_V, tmp_path, monkeypatch, capsys):
    pairs = [scorer.pair("def", " self"), scorer.pair("def", " None")]
    said = {}
    for name, control in controls(["random", "unigram"], scorer, train_V, 0, tmp_path, "asked"):
        said[name] = control.likelihoods(pairs, "made")
    assert said["random"] != said["unigram"]
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("slm.evaluate.scorer.likelihoods", lambda *_, **__: pytest.fail("asked again"))
    for name, control in controls(["random", "unigram"], scorer, train_V, 0, tmp_path, "asked"):
        assert control.likelihoods(pairs, "made") == said[name]
    assert "unigram control: going on from 2 answers" in capsys.readouterr().out


def test_a_token_that_training_never_held_is_possible():
    model = unigram(np.array([0, 3, 0, 5]), 16)
    logprobs_V = model(torch.tensor([[1, 2]])).detach().log_softmax(-1)[0, 1]
    assert float(logprobs_V[0]) == pytest.approx(math.log(1 / 12), abs=1e-5)
