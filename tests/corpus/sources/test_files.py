from __future__ import annotations

import gzip
import mmap
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from slm.core import store
from slm.core.artifact import MANIFEST, Spec, create
from slm.core.errors import UserError
from slm.corpus.config import CorpusConfig, SourceConfig
from slm.corpus.sources import files
from slm.corpus.sources.files import artifact_read, files_signature, find_files, is_damage, on_disk, opened


def config(path: Path | str) -> SourceConfig:
    return SourceConfig(kind="text", path=str(path), licence="MIT")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/d.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_directory_gives_its_text_files_by_name(tree: Path) -> None:
    assert [found.name for found in find_files(config(tree), (".txt",))] == ["a.txt", "b.txt", "deep/c.txt"]


def test_a_glob_gives_what_it_matches_named_from_its_fixed_part(tree: Path) -> None:
    assert [found.name for found in find_files(config(tree / "**" / "*.???"), ())] == [
        "a.txt", "b.txt", "deep/c.txt", "deep/d.bin",
    ]  # fmt: skip
    assert [found.name for found in find_files(config(tree / "deep" / "*.bin"), ())] == ["d.bin"]


def test_a_single_file_may_have_any_ending(tree: Path) -> None:
    assert [found.name for found in find_files(config(tree / "deep" / "d.bin"), (".txt",))] == ["d.bin"]


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("missing", "text has path .*missing, but no such file or directory .*; correct the path"),
        ("*.none", "but no file matches"),
        ("hollow", "but no .txt file is in it"),
    ],
)
def test_a_path_without_files_is_refused(tree: Path, path: str, sentence: str) -> None:
    (tree / "hollow").mkdir()
    with pytest.raises(UserError, match=sentence):
        find_files(config(tree / path), (".txt",))


def test_the_signature_follows_the_files(tree: Path) -> None:
    before = files_signature(config(tree), (".txt",))
    assert list(before) == ["a.txt", "b.txt", "deep/c.txt"]
    (tree / "a.txt").write_text("longer than before")
    assert files_signature(config(tree), (".txt",)) != before


def test_an_artifact_is_named_where_its_own_files_are_read(tree: Path) -> None:
    folder = tree / "made"
    with create(folder, Spec("rationales", CorpusConfig())) as draft:
        (draft.path / "label.txt").write_text("label")
    (folder / "notes.txt").write_text("put there by hand")
    for path in (folder, folder / "label.txt", folder / "*.txt", f"file://{folder}/label.txt"):
        found = artifact_read(config(path))
        assert found is not None
        assert found.kind == "rationales"
    for path in (folder / "notes.txt", tree / "a.txt", tree / "gone" / "a.txt", "memory://made/label.txt"):
        assert artifact_read(config(path)) is None
    (tree / MANIFEST).write_text('{"files": "of another program"}')
    assert artifact_read(config(tree / "a.txt")) is None


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """fsspec's file system in memory, emptied."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    for name in ("b.txt", "a.txt", "deep/c.txt", "deep/d.bin"):
        system.pipe_file(f"/bucket/{name}", f"text of {name}".encode())
    yield system
    system.store.clear()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("memory://bucket", ["a.txt", "b.txt", "deep/c.txt"]),
        ("memory://bucket/*.txt", ["a.txt", "b.txt"]),
        ("memory://bucket/**/*.bin", ["deep/d.bin"]),
        ("memory://bucket/deep/d.bin", ["d.bin"]),
    ],
)
def test_addresses_name_files_as_paths_do(memory: fsspec.AbstractFileSystem, path: str, names: list[str]) -> None:
    found = find_files(config(path), (".txt",))
    assert [file.name for file in found] == names
    assert all(file.size == memory.size(file.address.removeprefix("memory:/")) for file in found)
    with opened(found[-1].address) as stream:
        assert stream.read().startswith(b"text of ")


def test_an_address_without_files_is_refused(memory: fsspec.AbstractFileSystem) -> None:
    assert memory.exists("/bucket")
    with pytest.raises(UserError, match=r"has path memory://bucket/\*.none, but no file matches"):
        find_files(config("memory://bucket/*.none"), ())


def test_the_signature_of_an_address_follows_its_files(memory: fsspec.AbstractFileSystem) -> None:
    before = files_signature(config("memory://bucket"), (".txt",))
    memory.pipe_file("/bucket/a.txt", b"text of b.txt")
    after = files_signature(config("memory://bucket"), (".txt",))
    assert {name for name in after if after[name] != before[name]} == {"a.txt"}


def test_a_file_address_is_a_path(tree: Path) -> None:
    assert find_files(config(f"file://{tree}"), (".txt",)) == find_files(config(tree), (".txt",))


def test_reading_seeks_and_goes_on_over_a_remote_that_fails(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 100
    memory.pipe_file("/bucket/large", content)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1_000)
    monkeypatch.setattr(store, "FIRST_WAIT_SECONDS", 0.0)
    faults = {3_000: 2, 25_000: 3}
    original = type(memory).cat_file

    def cat_file(self: object, path: str, start: int, end: int) -> bytes:
        if faults.get(start, 0):
            faults[start] -= 1
            if faults[start] == 1:
                return original(self, path, start=start, end=end - 1)  # an answer cut short
            raise ConnectionResetError("gone")
        return original(self, path, start=start, end=end)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    with opened("memory://bucket/large") as stream:
        assert stream.read() == content
        assert stream.seek(-10, 2) == len(content) - 10
        assert stream.read() == content[-10:]
        assert stream.seek(2_995) == 2_995
        assert stream.read(10) == content[2_995:3_005]
    assert not any(faults.values())


def test_a_remote_that_keeps_failing_is_one_sentence_with_the_byte(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(files, "BLOCK_BYTES", 4)
    stream = opened("memory://bucket/a.txt")

    def cat_file(*_: object, **__: object) -> bytes:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    with pytest.raises(UserError, match=r"memory://bucket/a.txt cannot be read from byte 0 on \(Conn.*look at the net"):
        stream.read()


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_what_is_packed_or_elsewhere_is_put_on_the_disk_to_be_mapped(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, ending: str
) -> None:
    content = b"some text\n" * 1_000
    packed = {"": content, ".gz": gzip.compress(content), ".zst": pa.compress(content, codec="zstd", asbytes=True)}
    memory.pipe_file(f"/bucket/x{ending}", packed[ending])
    (tmp_path / f"x{ending}").write_bytes(packed[ending])
    for address in (f"memory://bucket/x{ending}", str(tmp_path / f"x{ending}")):
        with on_disk(address) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            assert mapped[:] == content


def test_damage_is_told_from_what_cannot_be_reached() -> None:
    assert is_damage(EOFError("short"))
    assert is_damage(pa.ArrowInvalid("no footer"))
    assert not is_damage(FileNotFoundError(2, "gone"))
    assert not is_damage(KeyError("x"))


def test_packed_files_count_as_more_text(tmp_path: Path) -> None:
    (tmp_path / "x.txt.gz").write_bytes(bytes(100))
    (found,) = find_files(config(tmp_path / "x.txt.gz"), ())
    assert found.text_bytes == 100 * files.GROWTH
