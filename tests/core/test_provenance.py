"""Which code made a result."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from slm.core import provenance
from slm.core.provenance import git_commit, library_versions, processor_name


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


def test_the_processor_has_the_name_that_linux_gives_it_or_its_architecture(monkeypatch, tmp_path) -> None:
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(provenance, "Path", lambda _: file)
    assert processor_name() == platform.machine()
    file.write_text("processor\t: 0\nmodel name\t: A Processor @ 2 GHz\nprocessor\t: 1\nmodel name\t: Another\n")
    assert processor_name() == "A Processor @ 2 GHz"
