"""Artifacts: complete or absent whatever happens, damage noticed, parents bound."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core import artifact as module
from slm.core.artifact import (
    LATEST,
    MANIFEST,
    Artifact,
    Draft,
    Spec,
    create,
    differences,
    find,
    make,
    newest,
    open_artifact,
    require_parent,
    write_atomically,
)
from slm.core.errors import DamagedError, UserError
from tests.core.family import Shape, family, writer


def forbidden(_: Draft) -> None:
    raise AssertionError("built again although it is there")


@pytest.fixture
def made(tmp_path: Path) -> Artifact:
    return make(tmp_path / "x", Spec("corpus", Shape(), seed=5, inputs={"files": ["t.txt"]}), writer())


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".tmp-" in path.name or ".old-" in path.name]


def test_what_was_written_is_what_is_read(made: Artifact) -> None:
    again = open_artifact(made.path, "corpus", verify="full")
    assert again == made
    assert sorted(again.manifest["files"]) == ["a.txt", "sub/b.bin"]
    assert again.file("a.txt").read_text(encoding="utf-8") == "abc"
    assert again.counts == {"letters": 3}
    assert again.section == {"size": 3, "threads": 1}
    assert again.manifest["seed"] == 5
    assert again.manifest["versions"]["python"].startswith("3.")
    assert leftovers(made.path.parent) == []


def test_a_file_that_the_manifest_does_not_list_is_refused(made: Artifact) -> None:
    with pytest.raises(UserError, match=r"x \(corpus\) has no file c.txt; it has a.txt, sub/b.bin"):
        made.file("c.txt")


def test_the_same_ingredients_are_not_made_twice(made: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Spec("corpus", Shape(threads=8), seed=5, inputs={"files": ["t.txt"]})
    assert make(made.path, spec, forbidden).fingerprint == made.fingerprint
    assert capsys.readouterr().out == f"corpus: up to date in {made.path} ({made.fingerprint[:12]})\n"


def test_the_same_content_has_the_same_fingerprint_anywhere(made: Artifact, tmp_path: Path) -> None:
    spec = Spec("corpus", Shape(), seed=5, inputs={"files": ["t.txt"]})
    assert make(tmp_path / "y", spec, writer()).fingerprint == made.fingerprint
    assert make(tmp_path / "z", spec, writer("abd")).fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("spec", "change"),
    [
        (Spec("corpus", Shape(size=4), seed=5, inputs={"files": ["t.txt"]}), "size: 3 -> 4"),
        (Spec("corpus", Shape(), seed=6, inputs={"files": ["t.txt"]}), "seed: 5 -> 6"),
        (Spec("corpus", Shape(), seed=5, inputs={"files": ["u.txt"]}), 'inputs.files: ["t.txt"] -> ["u.txt"]'),
    ],
)
def test_an_artifact_of_another_recipe_is_refused_with_the_differences_and_replaced_on_redo(
    made: Artifact, spec: Spec, change: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(made.path, spec, forbidden)
    assert str(caught.value) == (
        f"{made.path} was made by another recipe or from other data ({change}); "
        "choose another run=NAME to keep it, or add redo=true to replace it"
    )
    assert open_artifact(made.path) == made
    replaced = make(made.path, spec, writer("new"), redo=True)
    assert replaced.key == spec.key
    assert replaced.file("a.txt").read_text(encoding="utf-8") == "new"
    assert make(made.path, spec, forbidden, redo=True) == replaced
    assert leftovers(made.path.parent) == []


def test_a_folder_that_is_no_artifact_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match=r"x exists but holds no manifest.json, so it is not an artifact; move it away"):
        make(tmp_path / "x", Spec("corpus", Shape()), writer(), redo=True)
    assert (tmp_path / "x" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_missing_artifact_says_what_is_missing_and_where(tmp_path: Path) -> None:
    assert find(tmp_path / "x", Spec("corpus", Shape())) is None
    with pytest.raises(UserError, match=r"there is no shards in .*x \(no manifest.json\); make it first, or correct"):
        open_artifact(tmp_path / "x", "shards")


def test_another_kind_is_refused(made: Artifact) -> None:
    with pytest.raises(UserError, match=r"x holds a corpus, but a tokenizer is needed here; correct the path"):
        open_artifact(made.path, "tokenizer")


def test_a_failed_build_leaves_nothing_and_keeps_what_was_there(made: Artifact) -> None:
    def fail(draft: Draft) -> None:
        writer()(draft)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(made.path, Spec("corpus", Shape(size=9)), fail, redo=True)
    with pytest.raises(KeyboardInterrupt):
        make(made.path.with_name("y"), Spec("corpus", Shape()), fail)
    assert open_artifact(made.path, verify="full") == made
    assert [path.name for path in made.path.parent.iterdir()] == ["x"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match=r"runs/x cannot be written \(.*: .*runs\); .* point runs_dir elsewhere"):
        make(tmp_path / "runs" / "x", Spec("corpus", Shape()), writer())


# Damage


@given(st.data())
def test_any_flipped_byte_of_any_file_is_noticed(data: st.DataObject) -> None:
    made = sample()
    name = data.draw(st.sampled_from(["a.txt", "sub/b.bin", MANIFEST]))
    content = bytearray((made.path / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    flip = data.draw(st.integers(1, 255))
    broken = made.path.with_name("broken")
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(made.path, broken)
    content[position] ^= flip
    (broken / name).write_bytes(content)
    if name == MANIFEST and same_json(bytes(content), made.manifest):
        return  # white space between the manifest's tokens may change
    with pytest.raises(UserError, match=re.escape(str(broken))):
        open_artifact(broken, verify="full")


def same_json(content: bytes, value: object) -> bool:
    try:
        return bool(json.loads(content) == value)
    except ValueError:
        return False


_SAMPLES: list[Artifact] = []


def sample() -> Artifact:
    """One artifact for all examples of a property."""
    if not _SAMPLES:
        _SAMPLES.append(make(Path(tempfile.mkdtemp()) / "x", Spec("corpus", Shape()), writer()))
    return _SAMPLES[0]


@pytest.fixture(scope="module", autouse=True)
def _remove_sample() -> object:
    yield
    for made in _SAMPLES:
        shutil.rmtree(made.path.parent)


def test_a_truncated_a_missing_and_a_changed_file_are_told_apart(made: Artifact) -> None:
    file = made.path / "sub" / "b.bin"
    file.write_bytes(bytes(reversed(range(256))))
    with pytest.raises(DamagedError, match=r"b.bin is damaged: its sha256 is not the one in its manifest; delete"):
        open_artifact(made.path)
    file.write_bytes(b"abc")
    with pytest.raises(DamagedError, match=r"b.bin is damaged: 3 bytes found, 256 in its manifest; delete the"):
        open_artifact(made.path)
    file.unlink()
    with pytest.raises(DamagedError, match=r"b.bin is missing although its manifest lists it; delete the artifact's"):
        open_artifact(made.path)
    assert make(made.path, Spec("corpus", Shape()), writer(), redo=True).file("sub/b.bin").stat().st_size == 256


def test_a_large_file_is_hashed_only_on_full_verification(made: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.path / "sub" / "b.bin").write_bytes(bytes(reversed(range(256))))
    monkeypatch.setattr(module, "SMALL_FILE_BYTES", 100)
    assert open_artifact(made.path) == made
    with pytest.raises(DamagedError, match="sha256"):
        open_artifact(made.path, verify="full")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not readable as a manifest"),
        ("5", "is not readable as a manifest"),
        ("[]", "is not readable as a manifest"),
        ("{}", "is not readable as a manifest"),
        ("\ud800".encode("utf-16", "surrogatepass").decode("latin-1"), "is not readable as a manifest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(made: Artifact, text: str, problem: str) -> None:
    (made.path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(DamagedError, match=f"{problem}.*; make the artifact again"):
        open_artifact(made.path)


@pytest.mark.parametrize("key", ["counts", "section", "parents", "files", "ingredients", "fingerprint", "seed"])
def test_an_edited_manifest_is_refused(made: Artifact, key: str) -> None:
    manifest = json.loads((made.path / MANIFEST).read_text(encoding="utf-8"))
    manifest[key] = "f" * 64 if key == "fingerprint" else 7 if key == "seed" else {**manifest[key], "more": 1}
    (made.path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(
        DamagedError,
        match=r"manifest.json (was changed after it was written|is not readable) .*; make the",
    ):
        open_artifact(made.path)


def test_a_later_format_is_refused_as_such(made: Artifact) -> None:
    manifest = json.loads((made.path / MANIFEST).read_text(encoding="utf-8")) | {"format_version": 99}
    (made.path / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match="has format version 99, this slm reads 1; make the artifact again"):
        open_artifact(made.path)


# Parents


def test_a_child_of_another_parent_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    ours, other = family(tmp_path / "a"), make(tmp_path / "b", Spec("corpus", Shape()), writer("other"))
    require_parent(ours["tokenizer"], "corpus", ours["corpus"])
    with pytest.raises(UserError) as caught:
        require_parent(ours["tokenizer"], "corpus", other)
    assert str(caught.value) == (
        f"{ours['tokenizer'].path} (tokenizer) was made from corpus {ours['corpus'].fingerprint[:12]}, but "
        f"{other.path} is {other.fingerprint[:12]}; point artifacts.corpus at the one it was made "
        "from, or make the tokenizer again with redo=true"
    )
    with pytest.raises(UserError, match="was made from tokenizer none, but"):
        require_parent(ours["corpus"], "tokenizer", ours["tokenizer"])


def test_a_changed_parent_makes_the_child_another(tmp_path: Path) -> None:
    ours = family(tmp_path)
    corpus = make(tmp_path / "corpus", Spec("corpus", Shape(size=4)), writer("other"), redo=True)
    with pytest.raises(UserError, match=r"tokenizer was made by another recipe .*\(parents.corpus: "):
        make(ours["tokenizer"].path, Spec("tokenizer", Shape(), {"corpus": corpus}), forbidden)


# Killed, full, abandoned

KILLER = """
import json, os, signal, sys
from pathlib import Path
from slm.core.artifact import MANIFEST, Spec, make, open_artifact
from slm.core.config import Config
from slm.core.errors import UserError

class Shape(Config):
    size: int = 3

def build(draft):
    (draft.path / "sub").mkdir()
    for name in ("sub/b.bin", "a.txt"):
        with (draft.path / name).open("w") as stream:
            stream.write(draft.path.name * 100)

def attempt(path, size, kill_at):
    '''Make the artifact in a process of its own that kills itself at its kill_at-th touch of the folder.'''
    child = os.fork()
    if child == 0:
        touches = 0
        def hook(event, arguments):
            nonlocal touches
            if any(isinstance(argument, str) and str(path.parent) in argument for argument in arguments):
                touches += 1
                if touches == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        sys.stdout = open(os.devnull, "w")
        make(path, Spec("corpus", Shape(size=size)), build, redo=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def state(path):
    if not (path / MANIFEST).exists():
        return "absent"
    return open_artifact(path, verify="full").section["size"]

folder, replacing = Path(sys.argv[1]), sys.argv[2] == "replacing"
report = []
for kill_at in range(1, 1000):
    path = folder / str(kill_at) / "x"
    if replacing:
        assert attempt(path, 1, 0) == 0
    status = attempt(path, 2, kill_at)
    after_kill = state(path)
    again = attempt(path, 2, 0)
    names = sorted(entry.name for entry in path.parent.iterdir())
    report.append([status, after_kill, again, state(path), names])
    if status == 0:
        break
print(json.dumps(report))
"""


@pytest.mark.parametrize("before", ["absent", "replacing"])
def test_killed_at_any_moment_it_is_whole_or_absent_and_the_next_run_completes(before: str, tmp_path: Path) -> None:
    line = [sys.executable, "-c", KILLER, str(tmp_path), before]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert len(report) > 12, "killed at too few moments to mean anything"
    assert [row[0] for row in report] == [-signal.SIGKILL] * (len(report) - 1) + [0]
    assert {row[1] for row in report} <= ({"absent", 2} if before == "absent" else {"absent", 1, 2})
    assert all(row[2:] == [0, 2, ["x"]] for row in report), "the next run did not complete or left something behind"


def test_an_old_artifact_survives_a_kill_between_the_two_renames(made: Artifact) -> None:
    aside = made.path.with_name("x.old-999999999")
    made.path.rename(aside)
    with pytest.raises(ZeroDivisionError), create(made.path, Spec("corpus", Shape(size=4))):
        raise ZeroDivisionError
    assert open_artifact(made.path, verify="full") == made
    assert leftovers(made.path.parent) == []


def test_drafts_of_processes_that_are_gone_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for number in (gone.stdout.decode().strip(), "not-a-number", str(os.getpid()), str(os.getppid())):
        (tmp_path / f"x.tmp-{number}").mkdir()
        (tmp_path / f"x.tmp-{number}" / "part").touch()
    make(tmp_path / "x", Spec("corpus", Shape()), writer())
    assert leftovers(tmp_path) == [f"x.tmp-{os.getppid()}"]


def test_a_disk_that_fills_is_said_in_a_sentence_and_nothing_is_lost(made: Artifact) -> None:
    def fill(draft: Draft) -> None:
        writer()(draft)
        raise RuntimeError("a library's own words") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"the disk filled up while writing .*x \(.* free\); nothing was published and"):
        make(made.path, Spec("corpus", Shape(size=4)), fill, redo=True)
    assert open_artifact(made.path, verify="full") == made
    assert leftovers(made.path.parent) == []


FILLER = """
import sys
from pathlib import Path
from slm.compose import guarded
from slm.core.artifact import Spec, make
from slm.core.config import Config

def build(megabytes):
    return lambda draft: (draft.path / "big").write_bytes(bytes(megabytes << 20))

def work():
    make(Path("small"), Spec("corpus", Config()), build(1))
    make(Path("large"), Spec("shards", Config()), build(9))

guarded(work)
"""


def test_a_real_disk_that_fills_ends_the_command_and_keeps_what_is_complete(tmp_path: Path) -> None:
    (tmp_path / "fill.py").write_text(FILLER, encoding="utf-8")
    disk = tmp_path / "disk"
    disk.mkdir()
    fill = f"{sys.executable} {tmp_path}/fill.py; echo rc=$?; ls"
    line = f"mount -t tmpfs -o size=4m tmpfs {disk} || exit 77; cd {disk}; {fill}"
    done = subprocess.run(["unshare", "-rm", "bash", "-c", line], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    assert done.stderr.startswith("error: the disk filled up while writing")
    assert "earlier artifacts are intact" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-2:] == ["rc=1", "small"]


@pytest.mark.parametrize("left_out", range(10))
def test_what_is_published_survives_a_power_cut_and_every_flush_is_needed(
    tmp_path: Path, disk: Any, left_out: int
) -> None:
    """Two files, a folder in it, the manifest, the draft, the place; and each place above that was made."""
    disk.left_out = left_out
    made = make(tmp_path / "runs" / "mine" / "x", Spec("corpus", Shape()), writer())
    assert made.file("sub/b.bin").is_file()
    assert disk.flushes == 8
    assert disk.renames == 2
    noticed = [*disk.problems, *disk.lost()]
    assert bool(noticed) is (1 <= left_out <= disk.flushes), noticed


@pytest.mark.parametrize("left_out", range(3))
def test_a_text_that_was_replaced_survives_a_power_cut(tmp_path: Path, disk: Any, left_out: int) -> None:
    disk.left_out = left_out
    write_atomically(tmp_path / "t", "new")
    assert disk.flushes == 2
    assert bool([*disk.problems, *disk.lost()]) is (left_out > 0)


def test_what_takes_the_place_of_another_survives_a_power_cut(disk: Any, tmp_path: Path) -> None:
    for size in (3, 4):
        make(tmp_path / "runs" / "x", Spec("corpus", Shape(size=size)), writer(str(size)), redo=True)
    assert disk.renames == 2 + 3
    assert [*disk.problems, *disk.lost()] == []


# Small things


def test_the_newest_is_where_the_pointer_points(tmp_path: Path) -> None:
    assert newest(tmp_path) == tmp_path
    write_atomically(tmp_path / LATEST, "step-7\n")
    assert newest(tmp_path) == tmp_path / "step-7"
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "t", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text(encoding="utf-8") == "old"


def test_differences_are_dotted_and_cut_short() -> None:
    assert differences({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}, "e": None}) == [
        "a.c: 2 -> 3", "d: 1 -> null"
    ]  # fmt: skip
    assert differences({"settings": {"text": "x" * 99}}, {"settings": {"text": ""}}) == [f'text: "{"x" * 56}... -> ""']
