"""Windows score every target once, with as much context as promised."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.evaluate.windows import batches, lay_windows

SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.integers(1, 40), st.data())
def test_every_target_is_scored_exactly_once_with_enough_in_sight(targets, context, data):
    stride = data.draw(st.integers(1, context))
    windows = lay_windows(np.array(targets), context, stride)
    seen = [np.zeros(count, dtype=int) for count in targets]
    for document, begin, length, scored in zip(
        windows.document_W, windows.begin_W, windows.length_W, windows.scored_W, strict=True
    ):
        assert 0 <= scored < length <= context
        assert begin + length <= targets[document]
        seen[document][begin + scored : begin + length] += 1
        if begin:
            assert scored + 1 >= context - stride + 1
    assert all((count == 1).all() for count in seen)


def test_a_document_that_fits_has_one_window():
    windows = lay_windows(np.array([8, 9]), 8, 4)
    assert windows.document_W.tolist() == [0, 1, 1]
    assert windows.begin_W.tolist() == [0, 0, 4]
    assert windows.length_W.tolist() == [8, 8, 5]
    assert windows.scored_W.tolist() == [0, 0, 4]


@settings(max_examples=80, deadline=None)
@given(SIZES, st.integers(1, 200))
def test_batches_hold_every_window_once_and_never_too_much(targets, batch_tokens):
    windows = lay_windows(np.array(targets), 16, 8)
    taken = []
    for batch in batches(windows, batch_tokens):
        rows, longest = len(batch.document_W), int(batch.length_W.max())
        assert rows == 1 or rows * longest <= batch_tokens
        taken += list(zip(batch.document_W.tolist(), batch.begin_W.tolist(), strict=True))
    assert sorted(taken) == sorted(zip(windows.document_W.tolist(), windows.begin_W.tolist(), strict=True))
