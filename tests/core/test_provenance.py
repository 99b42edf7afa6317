"""Which code made a result."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from slm.core.provenance import git_commit, library_versions


def test_versions_are_those_that_run():
    versions = library_versions()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__


def test_the_commit_is_known_in_a_checkout_and_unknown_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    git_commit.cache_clear()
    if (Path(__file__).parents[2] / ".git").exists():
        assert len(git_commit().removesuffix("-dirty")) == 40
    git_commit.cache_clear()
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown"
    git_commit.cache_clear()
