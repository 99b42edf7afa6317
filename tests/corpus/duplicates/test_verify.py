from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.sketch import Scheme, Sketcher
from slm.corpus.duplicates.verify import ShingleSets, jaccard

sets = st.sets(st.integers(0, 30), min_size=1)


@given(sets, sets, st.floats(0, 1))
def test_jaccard_is_shared_over_united_unless_sizes_rule_it_out(one: set[int], other: set[int], least: float) -> None:
    expected = len(one & other) / len(one | other)
    arrays = [np.array(sorted(found), np.uint64) for found in (one, other)]
    assert jaccard(*arrays) == expected
    if expected >= least:
        assert jaccard(*arrays, least) == expected
    else:
        assert jaccard(*arrays, least) in (0.0, expected)


def test_sets_come_back_by_document_number(tmp_path: Path) -> None:
    sketcher = Sketcher(Scheme.of(DuplicatesConfig()))
    texts = {
        3: "one two three four five six",
        8: "short",
        20: "one two three four five six one two three four five six",
    }
    stored = ShingleSets(tmp_path)
    stored.fill(np.array(list(texts)), texts.values(), sketcher)
    for number, text in texts.items():
        assert stored.get(number).tolist() == sketcher.shingle_set(text).tolist()
    assert [len(stored.get(number)) for number in texts] == [2, 1, 6]
    assert jaccard(stored.get(3), stored.get(20)) == pytest.approx(2 / 6)
