"""Figures of the next token against a plain softmax over every position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from slm.evaluate import next_token
from slm.evaluate.next_token import collect, next_token_calibration, predictions, sampled, slopes, spread
from slm.evaluate.windows import lay_windows
from slm.model.transformer import build

OPTIONS = {"context": 64, "stride": 32, "batch_tokens": 256, "precision": "fp32", "seed": 0}


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(5, 330, size).astype(np.int32) for size in (40, 9, 60, 33)]


def test_predictions_are_the_softmax_of_every_position(model, documents) -> None:
    windows = lay_windows(np.array([len(ids) - 1 for ids in documents]), 64, 64)
    states = collect(model, documents, windows, 100, "fp32")
    assert len(states.targets_M) == sum(len(ids) - 1 for ids in documents)
    for document, ids in enumerate(documents):
        logits = model(torch.from_numpy(ids[None, :64].astype(np.int64)))[0].detach()
        p = (1.3 * logits[: len(ids) - 1]).double().softmax(-1)
        targets = torch.from_numpy(ids[1:].astype(np.int64))
        mine = np.flatnonzero(states.documents_M == document)
        found = predictions(model, states, 1.3, mine)
        assert found.confidence_N == pytest.approx(p.max(-1).values.numpy(), rel=1e-4)
        assert found.correct_N == pytest.approx((p.argmax(-1) == targets).double().numpy())
        onehot = torch.nn.functional.one_hot(targets, 330)
        assert found.brier_N == pytest.approx((p - onehot).square().sum(-1).numpy(), rel=1e-4)
        assert found.nats_N == pytest.approx(-p.log().gather(1, targets[:, None])[:, 0].numpy(), rel=1e-4)


def test_of_conversations_the_learned_tokens_alone_count(model, documents) -> None:
    learned = [np.arange(len(ids)) % 3 == 1 for ids in documents[:-1]] + [None]
    learned[0] = np.arange(len(documents[0])) == 39  # beyond the first of its windows, which then says nothing
    windows = sampled(documents, learned, 16, 16)
    assert (windows.document_W == 0).sum() == 1
    states = collect(model, documents, windows, 100, "fp32", learned)
    for number, (ids, flags) in enumerate(zip(documents, learned, strict=True)):
        wanted = ids[1:] if flags is None else ids[1:][flags[1:]]
        assert states.targets_M[torch.from_numpy(states.documents_M == number)].tolist() == wanted.tolist()
    every = collect(model, documents, sampled(documents, (), 16, 16), 100, "fp32")
    at = np.flatnonzero(every.documents_M == 1)[np.flatnonzero(learned[1][1:])]
    torch.testing.assert_close(states.x_MD[torch.from_numpy(states.documents_M == 1)], every.x_MD[torch.from_numpy(at)])


def test_slopes_are_the_derivatives_of_the_nats(model, documents) -> None:
    windows = lay_windows(np.array([len(ids) - 1 for ids in documents]), 32, 16)
    states = collect(model, documents, windows, 64, "fp32")
    chosen, step = np.arange(0, len(states.targets_M), 2), 1e-2

    def nats(beta: float) -> float:
        return float(predictions(model, states, beta, chosen).nats_N.sum())

    first, second = slopes(model, states, 0.9, chosen)
    assert first == pytest.approx((nats(0.9 + step) - nats(0.9 - step)) / (2 * step), rel=1e-2, abs=1e-2)
    assert second == pytest.approx((nats(0.9 + step) - 2 * nats(0.9) + nats(0.9 - step)) / step**2, rel=0.1, abs=0.5)


def test_a_temperature_that_was_put_in_is_found(model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents drawn from the model itself are calibrated; a head three times as large makes it overconfident."""
    monkeypatch.setattr(next_token, "LOGITS_PER_CHUNK", 330 * 500)
    config = model.config.model_copy(update={"tie_embeddings": False})
    surer = build(config, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 330, (60, 1), generator=generator)
    with torch.inference_mode():
        surer.head_weight.mul_(0.4 / surer.head_weight.std())  # far from uniform, far from sure
        while ids.shape[1] < 40:
            ids = torch.cat([ids, torch.multinomial(surer(ids)[:, -1].softmax(-1), 1, generator=generator)], dim=1)
    drawn = [row.numpy().astype(np.int32) for row in ids]
    honest = next_token_calibration(surer, drawn, **OPTIONS)
    assert honest["scaled"]["temperature"] == pytest.approx(1.0, abs=0.1)
    assert honest["stated"]["error"] < 2 * honest["stated"]["error_if_calibrated"]
    with torch.inference_mode():
        surer.head_weight.mul_(3)
    sure = next_token_calibration(surer, drawn, **OPTIONS)
    assert sure["scaled"]["temperature"] == pytest.approx(3 * honest["scaled"]["temperature"], rel=0.02)
    assert sure["stated"]["error"] > 3 * sure["scaled"]["error"]
    assert sure["fitted_on"] + sure["judged_on"] == 60 * 39


def test_windows_are_taken_at_even_distances() -> None:
    windows = lay_windows(np.array([1_000] * 20), 64, 32)
    taken = spread(windows, 2_000)
    assert 1_700 <= int((taken.length_W - taken.scored_W).sum()) <= 2_300
    assert set(taken.document_W) == set(range(20))
    assert len(spread(windows, 10**9).length_W) == len(windows.length_W)
