"""Answers moved on to the next prompt of their row."""

from __future__ import annotations

import torch

from slm.core.batch import IGNORED
from slm.objective.mismatched import mismatched
from tests.objective.test_preference import row


def test_each_prompt_has_the_answer_before_and_rows_keep_their_length() -> None:
    batch = row([([4, 5], [6, 7, 8], [9]), ([14, 15, 16], [17], [19]), ([24], [26, 27], [29])], 16)
    found = mismatched(batch)
    expected = [4, 5, 26, 27, 9, 14, 15, 16, 6, 7, 8, 19, 24, 17, 29]
    assert found.tokens_BT[0, :15].tolist() == expected
    assert found.documents_BT[0].tolist() == [0] * 5 + [1] * 7 + [2] * 3 + [-1]
    assert found.positions_BT[0, :15].tolist() == [*range(5), *range(7), *range(3)]
    learned = {place: target for place, target in enumerate(found.targets_BT[0].tolist()) if target != IGNORED}
    assert learned == {1: 26, 2: 27, 7: 6, 8: 7, 9: 8, 12: 17}


def test_of_a_document_alone_nothing_counts() -> None:
    batch = row([([4, 5], [6, 7, 8], [9])], 8)
    found = mismatched(batch)
    assert torch.equal(found.tokens_BT, batch.tokens_BT)
    assert bool((found.targets_BT == IGNORED).all())
