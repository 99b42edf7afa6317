from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus import units
from slm.corpus.cleaning import cleaner
from slm.corpus.units import Piece, Unit, group, plan
from slm.recipe import Recipe


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_pieces_come_together_in_order_up_to_the_size_of_a_unit(sizes: list[int], unit_bytes: int) -> None:
    pieces = [Piece(str(number), bytes=size) for number, size in enumerate(sizes)]
    grouped = list(group(pieces, unit_bytes))
    assert [piece for unit in grouped for piece in unit] == pieces
    for unit, following in pairwise(grouped):
        size = sum(piece.bytes for piece in unit)
        assert size <= unit_bytes or len(unit) == 1
        assert size + following[0].bytes > unit_bytes


def test_the_plan_lists_the_units_of_all_sources_in_order(recipe_of: Callable[..., Recipe], folder: Path) -> None:
    item = {"kind": "text", "path": str(folder), "licence": "MIT"}
    config = recipe_of({**item, "name": "a"}, {**item, "name": "b"}, unit_bytes=1_000).corpus
    found = plan(config.model_copy(update={"unit_bytes": 100}))
    assert [unit.number for unit in found] == list(range(len(found)))
    assert [unit.source for unit in found] == sorted(unit.source for unit in found)
    names = [piece.name for unit in found for piece in unit.pieces]
    assert names == [f"{number:02d}.txt" for number in range(40)] * 2
    assert len({unit.key for unit in found}) == len(found)
    assert found[0].place == "00.txt to 06.txt"
    assert Unit(0, 0, (Piece("x", bytes=3),), "k").place == "x"
    assert found[0].bytes == sum(piece.bytes for piece in found[0].pieces) > 0


def test_a_key_follows_what_shapes_the_unit_and_nothing_else(
    recipe_of: Callable[..., Recipe], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"kind": "text", "path": str(folder), "licence": "MIT"}

    def keys(*sources: dict[str, object], **settings: object) -> list[str]:
        return [unit.key for unit in plan(recipe_of(*(sources or (item,)), **settings).corpus)]

    same = keys()
    assert keys(validation_fraction=0.4, part="0/2", workers=3, keep_units=False) == same
    assert keys({**item, "name": "first"}, item)[1:] == same
    others = [
        keys({**item, "separator": "x"}),
        keys(steps=[{"step": "unicode", "repair": False}]),
        keys(on_bad_text="skip"),
        keys(on_control_text="skip"),
        keys(max_document_bytes=2_000),
        keys(duplicates={"near": False}),
    ]
    (folder / "07.txt").write_text("other")
    others.append(keys())
    monkeypatch.setattr(cleaner, "identity", lambda _: {"table": 2})
    others.append(keys())
    monkeypatch.setattr(units, "UNIT_VERSION", -1)
    others.append(keys())
    assert len({same[0], *(found[0] for found in others)}) == 1 + len(others)
