"""What Git says of a repository."""

from __future__ import annotations

from slm.release.repository import state
from tests.release.conftest import git


def test_a_clean_tagged_commit(repository):
    found = state(str(repository))
    assert (len(found.commit), found.changed, found.tags) == (40, (), ("v1.0",))
    assert found.record == {"commit": found.commit, "tag": "v1.0", "clean": True}


def test_changed_and_unknown_files_are_named_and_ignored_ones_are_not(repository):
    (repository / ".gitignore").write_text("runs/\n")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "ignore")
    (repository / "runs").mkdir()
    (repository / "runs" / "a").touch()
    assert state(str(repository)).changed == ()
    assert state(str(repository)).tags == ()
    (repository / "recipe.yaml").write_text("changed")
    (repository / "b").touch()
    assert state(str(repository)).changed == ("recipe.yaml", "b")


def test_outside_a_repository_there_is_nothing(tmp_path):
    assert state(str(tmp_path)).commit == ""


def test_without_a_folder_it_is_the_source_of_this_program():
    assert state("").folder.parts[-2:] == ("slm", "release")
