from __future__ import annotations

from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.corpus.config import SourceConfig
from slm.corpus.sources.files import files_signature, find_files


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
