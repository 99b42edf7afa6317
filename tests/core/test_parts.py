from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core import parts
from slm.core.errors import UserError
from slm.core.parts import Meter, Part, make_asked, make_part, make_units, part_of
from slm.core.units import is_finished
from tests.core.making import Counting, Numbers, counting

UNITS = 12


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("total", [1, 2, 3, 5, 12, 20])
def test_parts_are_disjoint_and_together_the_whole(total: int) -> None:
    work = counting(Path())
    mine = [Part(work, work.units, number, total).mine() for number in range(total)]
    assert sorted(unit.key for part in mine for unit in part) == sorted(unit.key for unit in work.units)
    for workers in (1, 2, 7):
        for number in range(total):
            divided = Part(work, work.units, number, total).divided(workers)
            inside = sorted(unit.key for part in divided for unit in part.mine())
            assert inside == sorted(unit.key for unit in mine[number])
            assert len(divided) == max(1, min(workers, len(mine[number])))


def test_parts_made_in_any_order_by_any_number_of_workers_are_the_same_bytes(tmp_path: Path) -> None:
    make_units(counting(tmp_path / "one"))
    whole = files_of(tmp_path / "one")
    assert len(whole) == UNITS * 2
    for number in (2, 0, 1):
        make_units(counting(tmp_path / "three"), number, 3)
    assert files_of(tmp_path / "three") == whole
    make_units(counting(tmp_path / "two", workers=2))
    assert files_of(tmp_path / "two") == whole


def test_only_what_is_missing_and_needed_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = counting(tmp_path)
    work = work._replace(units=[*work.units, Numbers("unneeded", 5)])
    for unit in work.units[:5]:
        work.make(unit, lambda *_: None)
    made: list[str] = []
    original = Counting.make
    monkeypatch.setattr(Counting, "make", lambda self, unit, tick: made.append(unit.key) or original(self, unit, tick))
    make_units(work)
    assert made == [f"unit{number}" for number in range(5, UNITS)]
    make_units(work)
    assert len(made) == UNITS - 5


@pytest.mark.parametrize("workers", [1, 2])
def test_a_users_mistake_in_a_unit_is_one_sentence(tmp_path: Path, workers: int) -> None:
    work = counting(tmp_path, workers=workers)
    with pytest.raises(UserError, match=r"^bad: a unit of this name cannot be made; give it another$"):
        make_units(work._replace(units=[*work.units, Numbers("bad", 1)]))
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_killed_worker_is_named_and_its_units_are_made_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = counting(tmp_path, workers=2)
    monkeypatch.setattr(parts, "wait", killing(parts.wait))
    with pytest.raises(UserError, match=r"one of counting.workers, was killed by SIGKILL; finished units are kept"):
        make_units(work)
    monkeypatch.undo()
    make_units(work)
    assert all(is_finished(tmp_path, unit) for unit in work.units)


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
    with Meter("corpus", 40_000_000, 10_000_000) as meter:
        meter.tell(0, 100, 5_000_000)
        meter.tell(1, 300, 9_600_000)
        meter.tell(0, 200, 6_000_000)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == ["corpus: 15/40 MB", "corpus: 24/40 MB", "corpus: 25/40 MB"]
    assert "500 documents, " in lines[2]
    assert "documents/s" in lines[2]
    assert "MB/s" in lines[2]


def test_a_part_tells_what_it_has_done(tmp_path: Path) -> None:
    work = counting(tmp_path)
    told: list[tuple[int, int]] = []
    make_part(Part(work, work.units), lambda documents, num_bytes: told.append((documents, num_bytes)))
    assert told == sorted(told)
    assert len(told) == 2 * UNITS
    assert told[-1] == (sum(unit.bytes for unit in work.units),) * 2


def test_a_part_that_was_asked_for_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_asked(counting(tmp_path), "1/3")
    assert capsys.readouterr().out == (
        "counting: part 1/3 is made, 4 of 12 units are there; the same command without counting.part makes what is "
        "missing and puts all together\n"
    )


def test_parts_count_from_zero() -> None:
    assert part_of("corpus", "2/8") == (2, 8)
    assert part_of("corpus", "") == (0, 1)
    with pytest.raises(UserError, match=r"corpus.part \(8/8\) counts from 0: the parts of 8 are 0/8 to 7/8"):
        part_of("corpus", "8/8")


def test_ray_makes_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="pip install '.[ray]'")
    make_units(counting(tmp_path / "ray", workers=3, executor="ray"))
    make_units(counting(tmp_path / "one"))
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "one")


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(
        UserError, match=r"counting.executor=ray needs Ray, which is not installed; pip install '.\[ray\]'"
    ):
        make_units(counting(tmp_path, executor="ray"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_what_is_finished_is_kept(small_disk: Callable[[int], Path], workers: int) -> None:
    work = counting(small_disk(100) / "units", workers=workers)
    work = work._replace(units=[*work.units[:2], Numbers("large", 100_000), Numbers("huge", 100_000)])
    with pytest.raises(UserError, match=r"No space left on device while units were written to .*/units; free some sp"):
        make_units(work)
    kept = sorted(path.name for path in work.root.iterdir())
    assert kept == sorted(unit.key for unit in work.units if is_finished(work.root, unit))
    assert kept[0] in ("unit0", "unit1")  # with two workers the disk may be full before the first of them is done
