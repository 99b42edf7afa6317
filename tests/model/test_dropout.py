"""Masks are a function of each row's seed alone, leave out as much as asked, and keep the mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from slm.core.batch import Dropout
from slm.model.block import set_recompute
from slm.model.config import ModelConfig
from slm.model.dropout import thinned, thinned_embedding
from slm.model.recompute import Recompute
from slm.model.transformer import build


def leaving_out(
    rate: float = 0.0, embedding_rate: float = 0.0, path: tuple[float, ...] = (0.0, 0.0), rows: int = 4
) -> Dropout:
    return Dropout(rate, embedding_rate, path, tuple(range(100, 100 + rows)))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_asked_for_is_left_out_and_the_mean_stays(rate: float) -> None:
    x = torch.full((4, 128, 130), 2.0)  # 130: not a multiple of what one draw of bits covers
    for out in (thinned(x, leaving_out(rate), 0, "ffn"), thinned_embedding(x, leaving_out(0.0, rate))):
        assert float((out == 0).float().mean()) == pytest.approx(rate, abs=0.01)
        torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 2 / (1 - rate)), rtol=1e-4, atol=0)


def test_a_row_loses_the_same_whatever_stands_beside_it_and_torchs_generator_is_left_alone() -> None:
    x, dropout = torch.randn(4, 16, 8), leaving_out(0.3, path=(0.0, 0.6))
    before = torch.get_rng_state()
    whole = thinned(x, dropout, 1, "attention")
    assert torch.equal(torch.get_rng_state(), before)
    for rows in ([0], [3, 1]):
        part = Dropout(0.3, 0.0, (0.0, 0.6), tuple(dropout.seeds[row] for row in rows))
        assert torch.equal(thinned(x[rows], part, 1, "attention"), whole[rows])


def test_layers_parts_and_rows_lose_different_entries() -> None:
    x = torch.ones(2, 64, 64)
    masks = [
        row == 0
        for layer, part in ((0, "attention"), (0, "ffn"), (1, "attention"))
        for row in thinned(x, leaving_out(0.5, rows=2), layer, part)
    ] + [row == 0 for row in thinned_embedding(x, leaving_out(0.0, 0.5, rows=2))]
    for index, mask in enumerate(masks):
        for other in masks[:index]:
            assert float((mask == other).float().mean()) == pytest.approx(0.5, abs=0.06)


def test_noise_is_as_large_as_each_documents_length_allows_and_padding_has_none() -> None:
    x, width = torch.randn(3, 64, 48), 48
    lengths = torch.tensor([[40, 16], [64, 0], [8, 8]])  # the rest of a row is padding
    documents = torch.full((3, 64), -1, dtype=torch.int32)
    for row, (first, second) in enumerate(lengths.tolist()):
        documents[row, :first] = 0
        documents[row, first : first + second] = 1
    noisy = Dropout(0.0, 0.0, (0.0, 0.0), (7, 8, 9), embedding_noise=5.0)
    noise = thinned_embedding(x, noisy, documents) - x
    assert float(noise[documents < 0].abs().max()) == 0
    for row, document in ((0, 0), (0, 1), (1, 0), (2, 1)):
        most = 5.0 / math.sqrt(int(lengths[row, document]) * width)  # NEFTune, arXiv 2310.05914, algorithm 1
        mine = noise[row][documents[row] == document]
        assert 0.98 * most < float(mine.abs().max()) <= most * (1 + 1e-5)
        assert float(mine.std()) == pytest.approx(most / math.sqrt(3), rel=0.06)
        assert float(mine.mean()) == pytest.approx(0, abs=0.1 * most)
    alone = Dropout(0.0, 0.0, (0.0, 0.0), (8,), embedding_noise=5.0)
    torch.testing.assert_close(thinned_embedding(x[1:2], alone), thinned_embedding(x, noisy, documents)[1:2])


def test_stochastic_depth_leaves_out_whole_branches_of_rows_at_the_layers_chance() -> None:
    x = torch.ones(2000, 2, 3)
    for layer, chance in enumerate((0.2, 0.4)):
        out = thinned(x, leaving_out(path=(0.2, 0.4), rows=2000), layer, "ffn")
        kept = out[:, 0, 0] != 0
        torch.testing.assert_close(out, kept.float()[:, None, None].expand_as(out) / (1 - chance))
        assert float(kept.float().mean()) == pytest.approx(1 - chance, abs=0.03)
        assert float(out.mean()) == pytest.approx(1.0, abs=0.06)


def test_a_model_whose_branches_are_all_left_out_for_a_row_hands_on_the_embedding(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 0), tokens(6, 9)
    dropout = leaving_out(path=(0.9, 0.9), rows=6)
    out, plain, stream = model.hidden(ids, dropout=dropout), model.hidden(ids), model.norm(model.embedding(ids))
    bare = [row for row in range(6) if torch.equal(out[row], stream[row])]
    assert bare  # at 0.9 four branches are left out together in 2 of 3 rows
    assert not [row for row in range(6) if torch.equal(out[row], plain[row])]


@pytest.mark.parametrize("dropout", [leaving_out(0.2, rows=2), leaving_out(0.0, 0.2, rows=2)])
def test_forward_is_repeatable_and_gradients_follow_the_same_masks(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], dropout: Dropout
) -> None:
    model, ids = build(shape(), 0).double(), tokens(2, 9)
    weight = model.blocks[0].ffn.down.weight
    loss = model.hidden(ids, dropout=dropout).square().sum()
    assert not torch.equal(loss, model.hidden(ids).square().sum())
    loss.backward()
    with torch.no_grad():
        direction = torch.randn_like(weight)
        ends = []
        for sign in (1, -1):
            weight.add_(direction, alpha=sign * 1e-6)
            ends.append(model.hidden(ids, dropout=dropout).square().sum())
            weight.sub_(direction, alpha=sign * 1e-6)
    assert float((ends[0] - ends[1]) / 2e-6) == pytest.approx(float((weight.grad * direction).sum()), rel=1e-4)


def test_under_autocast_the_stream_stays_float32(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor]
) -> None:
    model, ids = build(shape(), 0), tokens(2, 9)
    stream: list[torch.dtype] = []
    model.blocks[1].register_forward_hook(lambda _module, _inputs, out: stream.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.hidden(ids, dropout=leaving_out(0.1, 0.1, (0.1, 0.2), rows=2)).float().sum().backward()
    assert stream == [torch.float32]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.ndim == 1)


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_what_backward_recomputes_leaves_out_the_same(
    shape: Callable[..., ModelConfig], tokens: Callable[..., Tensor], kind: Recompute
) -> None:
    ids, dropout, gradients = tokens(2, 9), leaving_out(0.2, 0.1, (0.2, 0.4), rows=2), []
    for recompute in ("none", kind):
        model = build(shape(), 0)
        set_recompute(model, recompute)
        model.hidden(ids, dropout=dropout).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(mine, plain) for mine, plain in zip(*gradients, strict=True))
