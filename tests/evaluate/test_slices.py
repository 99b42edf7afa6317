from __future__ import annotations

import numpy as np

from slm.evaluate.slices import LEAST_ITEMS, quarters, slices


def test_quarters_part_the_items_into_about_as_many_each() -> None:
    values = np.random.default_rng(0).lognormal(5, 1, 203)
    found = quarters("bytes", values)
    assert [len(part.chosen_M) for part in found] == [51, 51, 50, 51]
    assert sorted(np.concatenate([part.chosen_M for part in found])) == list(range(203))
    ends = [values[part.chosen_M].max() for part in found]
    assert ends == sorted(ends)
    assert found[0].name.split(" to ")[0] == f"{values.min():.4g}"


def test_items_of_one_size_stay_together() -> None:
    found = quarters("tokens", np.array([1.0] * 90 + [2.0] * 5 + [3.0] * 5))
    assert [(part.name, len(part.chosen_M)) for part in found] == [("1", 90), ("2 to 3", 10)]
    assert quarters("tokens", np.full(9, 4.0)) == []
    assert quarters("tokens", np.array([])) == []


def test_groups_are_parts_and_small_ones_are_counted() -> None:
    names = ["code"] * 20 + ["prose"] * LEAST_ITEMS + ["poem"] * (LEAST_ITEMS - 1)
    found, left_out = slices({"source": names, "language": ["en"] * len(names)}, {})
    assert [(part.kind, part.name, len(part.chosen_M)) for part in found] == [
        ("source", "code", 20), ("source", "prose", LEAST_ITEMS),
    ]  # fmt: skip
    assert left_out == 1
