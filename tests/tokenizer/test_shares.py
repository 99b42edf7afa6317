from __future__ import annotations

from typing import Any

import pytest

from slm.core.errors import UserError
from slm.shards.config import ShardsConfig
from slm.tokenizer.shares import shares_of_mixture

HELD = {"web": 8_000, "code": 2_000, "books": 1_000}


def by_weight(**weights: float) -> list[dict[str, Any]]:
    return [{"source": name, "weight": weight} for name, weight in weights.items()]


def by_epochs(**epochs: float) -> list[dict[str, Any]]:
    return [{"source": name, "epochs": count} for name, count in epochs.items()]


@pytest.mark.parametrize(
    ("stages", "shares"),
    [
        ([{"sources": by_weight(web=3, code=1)}], {"web": 0.75, "code": 0.25, "books": 0}),
        ([{"sources": by_epochs(web=1, code=2, books=4)}], {"web": 0.5, "code": 0.25, "books": 0.25}),
        # 800 tokens, of which 600 and 200, then 200 of books: shares of 1,000
        ([{"tokens": 800, "sources": by_weight(web=3, code=1)}, {"tokens": 200, "sources": by_weight(books=5)}],
         {"web": 0.6, "code": 0.2, "books": 0.2}),
        # 1,500 tokens are 6,000 bytes, and two epochs of books 2,000
        ([{"tokens": 1_500, "sources": by_weight(web=1, code=1)}, {"sources": by_epochs(books=2)}],
         {"web": 0.375, "code": 0.375, "books": 0.25}),
        # The last takes what of 2,000 tokens is left
        ([{"tokens": 500, "sources": by_weight(web=1)}, {"sources": by_weight(code=1, books=2)}],
         {"web": 0.25, "code": 0.25, "books": 0.5}),
        # Nothing is left
        ([{"tokens": 5_000, "sources": by_weight(web=1)}, {"sources": by_weight(code=1, books=2)}],
         {"web": 1, "code": 0, "books": 0}),
        # Epochs within a given length are relative
        ([{"tokens": 100, "sources": by_epochs(code=1, books=2)}], {"web": 0, "code": 0.5, "books": 0.5}),
    ],
)  # fmt: skip
def test_a_source_weighs_what_the_stages_read_of_it(stages: list[dict[str, Any]], shares: dict[str, float]) -> None:
    mixture = ShardsConfig.model_validate({"mixture": stages}).mixture
    assert shares_of_mixture(mixture, HELD, 2_000) == pytest.approx(shares)


def test_only_a_last_stage_without_length_follows_the_tokens_of_training() -> None:
    closed = ShardsConfig(mixture=[{"tokens": 500, "sources": by_weight(web=1)}, {"sources": by_epochs(code=1)}])
    single = ShardsConfig(mixture=[{"sources": by_weight(web=1, code=1)}])
    opened = ShardsConfig(mixture=[{"tokens": 500, "sources": by_weight(web=1)}, {"sources": by_weight(code=1)}])
    for config, same in ((closed, True), (single, True), (opened, False)):
        few, many = (shares_of_mixture(config.mixture, HELD, tokens) for tokens in (1_000, 9_000))
        assert (few == many) is same


def test_a_source_that_the_corpus_lacks_is_named() -> None:
    mixture = ShardsConfig(mixture=[{"sources": by_weight(wiki=1)}]).mixture
    with pytest.raises(UserError, match=r"shards.mixture.main.wiki: the corpus holds no such source, only web, code"):
        shares_of_mixture(mixture, HELD, 1)
