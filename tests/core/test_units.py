from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slm.core import units
from slm.core.errors import DamagedError, UserError
from slm.core.units import FACTS, is_finished, keep_only, publish, read_facts, remove_abandoned, verified
from tests.conftest import Disk
from tests.core.making import Counting, Numbers, counting

UNIT = Numbers("one", 1_000)


def make(root: Path, unit: Numbers = UNIT) -> int:
    return Counting(root, (unit,)).make(unit, lambda *_: None)


def test_a_unit_is_there_as_a_whole_with_its_facts(tmp_path: Path, disk: Disk) -> None:
    root = tmp_path / "units"
    assert not is_finished(root, UNIT)
    assert make(root) == 1_000
    assert is_finished(root, UNIT)
    assert [path.name for path in root.iterdir()] == ["one"]
    assert read_facts(root, UNIT)["documents"] == 1_000
    assert list(read_facts(root, UNIT)["files"]) == ["lines"]
    assert verified(root, UNIT) == root / "one"
    assert disk.renames
    assert not disk.problems


@pytest.mark.parametrize("harm", ["shorter", "facts", "gone", "flipped"])
def test_a_damaged_unit_is_made_again_or_named(tmp_path: Path, harm: str) -> None:
    make(tmp_path)
    file = tmp_path / "one" / "lines"
    content = file.read_bytes()
    if harm == "shorter":
        file.write_bytes(content[:-1])
    elif harm == "facts":
        (tmp_path / "one" / FACTS).write_text("{")
    elif harm == "gone":
        file.unlink()
    else:
        file.write_bytes(b"x" + content[1:])
        assert is_finished(tmp_path, UNIT)
        with pytest.raises(DamagedError, match=r"one/lines is damaged: .*; delete .*one and run the same command"):
            verified(tmp_path, UNIT)
        return
    assert not is_finished(tmp_path, UNIT)
    make(tmp_path)
    assert file.read_bytes() == content


def test_a_failing_unit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad: a unit of this name"):
        make(tmp_path, Numbers("bad", 3))
    assert list(tmp_path.iterdir()) == []


def test_two_that_make_the_same_unit_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "is_finished", lambda *_: False)
    publish(tmp_path, UNIT, lambda folder: {"size": (folder / "a").write_text("x")})
    publish(tmp_path, UNIT, lambda folder: {"size": (folder / "a").write_text("x")})
    monkeypatch.undo()
    assert is_finished(tmp_path, UNIT)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_only_what_is_abandoned_is_removed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone, host = int(done.stdout), socket.gethostname()
    for name in (f"a.tmp-{host}-{gone}", f"b.tmp-{host}-{os.getpid()}", f"c.tmp-elsewhere-{gone}", "d"):
        (tmp_path / name).mkdir()
    remove_abandoned(tmp_path)
    assert sorted(path.name[0] for path in tmp_path.iterdir()) == ["b", "c", "d"]


def test_what_is_not_to_be_kept_is_deleted(tmp_path: Path) -> None:
    work = counting(tmp_path / "units", 3)
    for unit in work.units:
        work.make(unit, lambda *_: None)
    keep_only(work.root, {"unit1"})
    assert [path.name for path in work.root.iterdir()] == ["unit1"]
    draft = work.root / f"unit2.tmp-{socket.gethostname()}-{os.getpid()}"
    draft.mkdir()
    keep_only(work.root, set())
    assert list(work.root.iterdir()) == [draft], "somebody may be writing it"
    draft.rmdir()
    keep_only(work.root, set())
    assert not work.root.exists()
