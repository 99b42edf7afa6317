from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from slm.corpus.config import SourceConfig
from slm.recipe import ProblemsError, build_recipe


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kind": "text", "path": "a.txt"}, "source text has no licence; give its SPDX identifier.*licence: unknown"),
        ({"kind": "text", "licence": "MIT"}, "kind text needs a path"),
        ({"kind": "stdlib", "path": "x"}, r"path has no effect on kind stdlib \(which has none\); remove it"),
        ({"kind": "jsonl", "path": "x", "licence": "MIT", "subset": "en"}, "subset has no effect on kind jsonl"),
        ({"kind": "text", "path": "x", "licence": "MIT", "separator": "("}, "separator '\\(' is not a regular expr"),
        ({"kind": "text", "path": "x", "licence": "MIT", "name": "a/b"}, "should match pattern"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        SourceConfig.model_validate(settings)


def test_an_unknown_licence_may_be_stated() -> None:
    assert SourceConfig(kind="text", path="a.txt", licence="unknown").licence_or_default == "unknown"


def test_the_standard_library_needs_neither_path_nor_licence() -> None:
    config = SourceConfig(kind="stdlib")
    assert (config.label, config.licence_or_default) == ("stdlib", "PSF-2.0")
    assert config.origin_or_default.startswith("standard library of Python 3.")


def test_a_missing_licence_is_reported_with_its_key() -> None:
    with pytest.raises(ProblemsError, match=r"corpus.sources.0: source text has no licence"):
        build_recipe({"corpus": {"sources": [{"kind": "text", "path": "a.txt"}]}})
