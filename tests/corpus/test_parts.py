from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core.errors import UserError
from slm.corpus import parts
from slm.corpus.config import CorpusConfig
from slm.corpus.parts import Meter, Needed, Part, make_part, make_units
from slm.corpus.units import plan
from slm.corpus.work import is_finished, make_unit
from slm.recipe import Recipe

FILES = 12


@pytest.fixture
def config(recipe_of: Callable[..., Recipe], tmp_path: Path) -> Callable[..., CorpusConfig]:
    """A corpus of twelve units of ten documents each."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(FILES):
        lines = (json.dumps({"text": f"document {row} of file {number} " + "x" * 100}) + "\n" for row in range(10))
        (texts / f"{number:02d}.jsonl").write_text("".join(lines))

    def make(source: dict[str, Any] | None = None, **settings: Any) -> CorpusConfig:
        item = {"kind": "jsonl", "path": str(texts), "licence": "MIT", **(source or {})}
        return recipe_of(item, unit_bytes=1_500, **settings).corpus

    return make


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("total", [1, 2, 3, 5, 12, 20])
def test_parts_are_disjoint_and_together_the_whole(config: Callable[..., CorpusConfig], total: int) -> None:
    units = plan(config())
    assert len(units) == FILES
    mine = [Part(config(), units, Path(), number, total).mine() for number in range(total)]
    numbers = [unit.number for part in mine for unit in part]
    assert sorted(numbers) == list(range(FILES))
    for workers in (1, 2, 7):
        for number in range(total):
            divided = Part(config(), units, Path(), number, total).divided(workers)
            inside = sorted(unit.number for part in divided for unit in part.mine())
            assert inside == [unit.number for unit in mine[number]]
            assert len(divided) == max(1, min(workers, len(mine[number])))


def test_parts_made_in_any_order_by_any_number_of_workers_are_the_same_bytes(
    config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    units = plan(config())
    make_units(Part(config(), units, tmp_path / "one"))
    whole = files_of(tmp_path / "one")
    assert len(whole) == FILES * 4
    for number in (2, 0, 1):
        make_units(Part(config(), units, tmp_path / "three", number, 3))
    assert files_of(tmp_path / "three") == whole
    make_units(Part(config(workers=2), units, tmp_path / "two"))
    assert files_of(tmp_path / "two") == whole


def test_only_what_is_missing_is_made(
    config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = plan(config())
    for unit in units[:5]:
        make_unit(config(), unit, tmp_path)
    made = []
    monkeypatch.setattr(parts, "make_unit", lambda *args: (made.append(args[1].number), make_unit(*args)))
    make_units(Part(config(), units, tmp_path))
    assert made == list(range(5, FILES))
    make_units(Part(config(), units, tmp_path))
    assert made == list(range(5, FILES))


def test_units_beyond_the_most_documents_of_a_source_are_not_made(
    config: Callable[..., CorpusConfig], tmp_path: Path
) -> None:
    settings = config({"max_documents": 25})
    units = plan(settings)
    make_units(Part(settings, units, tmp_path))
    assert [is_finished(tmp_path, unit) for unit in units] == [True] * 3 + [False] * 9
    needed = Needed(Part(settings, units, tmp_path))
    assert [needed(unit) for unit in units] == [True] * 3 + [False] * 9
    assert needed.documents(units[1]) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_in_a_unit_is_one_sentence(
    config: Callable[..., CorpusConfig], tmp_path: Path, workers: int
) -> None:
    with (tmp_path / "texts" / "07.jsonl").open("a") as stream:
        stream.write("not json\n")
    settings = config(workers=workers)
    with pytest.raises(UserError, match=r"07.jsonl:11: not JSON"):
        make_units(Part(settings, plan(settings), tmp_path / "units"))
    assert not list((tmp_path / "units").glob("*.tmp-*"))


def test_a_killed_worker_is_named_and_its_units_are_made_by_the_next_call(
    config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(workers=2)
    units = plan(settings)
    monkeypatch.setattr(parts, "wait", killing(parts.wait))
    with pytest.raises(UserError, match=r"one of corpus.workers, was killed by SIGKILL; finished units are kept"):
        make_units(Part(settings, units, tmp_path / "units"))
    monkeypatch.undo()
    make_units(Part(settings, units, tmp_path / "units"))
    assert all(is_finished(tmp_path / "units", unit) for unit in units)


def killing(wait: Callable[..., Any]) -> Callable[..., Any]:
    """`wait` that first kills a child of this process."""
    import multiprocessing

    def first(links: Any) -> Any:
        for child in multiprocessing.active_children()[:1]:
            os.kill(child.pid or 0, signal.SIGKILL)
        return wait(links)

    return first


def test_progress_counts_megabytes_of_all_workers_and_documents_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm.core import console

    monkeypatch.setattr(console, "LINE_EVERY_SECONDS", 0.0)
    with Meter(40_000_000, 10_000_000) as meter:
        meter.tell(0, 100, 5_000_000)
        meter.tell(1, 300, 9_600_000)
        meter.tell(0, 200, 6_000_000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == ["corpus: 15/40 MB", "corpus: 24/40 MB", "corpus: 25/40 MB"]
    assert "500 documents, " in lines[2]
    assert "documents/s" in lines[2]
    assert "MB/s" in lines[2]


def test_a_part_tells_what_it_has_done(config: Callable[..., CorpusConfig], tmp_path: Path) -> None:
    settings = config()
    part = Part(settings, plan(settings), tmp_path)
    told: list[tuple[int, int]] = []
    make_part(part, part, lambda documents, num_bytes: told.append((documents, num_bytes)))
    assert told == sorted(told)
    assert told[-1] == (FILES * 10, sum(unit.bytes for unit in part.units))


def test_ray_makes_the_same_bytes(config: Callable[..., CorpusConfig], tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install '.[ray]'")
    settings = config(workers=3, executor="ray")
    units = plan(settings)
    make_units(Part(settings, units, tmp_path / "ray"))
    make_units(Part(config(), units, tmp_path / "one"))
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "one")


def test_without_ray_the_extra_is_named(
    config: Callable[..., CorpusConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    settings = config(executor="ray")
    with pytest.raises(
        UserError, match=r"corpus.executor=ray needs Ray, which is not installed; pip install '.\[ray\]'"
    ):
        make_units(Part(settings, plan(settings), tmp_path / "units"))
