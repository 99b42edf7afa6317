from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from slm.core.errors import UserError
from slm.core.parts import make_units
from slm.core.units import is_finished, read_facts
from slm.corpus import work
from slm.corpus.buckets import digest
from slm.corpus.config import CorpusConfig
from slm.corpus.units import Unit, plan
from slm.corpus.work import CorpusWork, make_unit, read_unit
from slm.recipe import Recipe


def one(recipe_of: Callable[..., Recipe], path: Path, **settings: object) -> tuple[CorpusConfig, Unit]:
    (settings_of_source := {"kind": "jsonl", "path": str(path), "licence": "MIT"}).update(settings.pop("source", {}))
    config = recipe_of(settings_of_source, **settings).corpus
    (unit,) = plan(config)
    return config, unit


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    texts = ["one", "", "Cafe\u0301", "says <|user|> twice <|user|>", " \n", "last"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_a_unit_holds_what_stays_and_counts_the_rest(
    recipe_of: Callable[..., Recipe], lines: Path, tmp_path: Path
) -> None:
    config, unit = one(recipe_of, lines, steps=[{"step": "unicode", "repair": False}])
    make_unit(config, unit, tmp_path / "units")
    assert is_finished(tmp_path / "units", unit)
    documents = list(read_unit(tmp_path / "units", unit))
    assert [document.text for document in documents] == ["one", "Caf\u00e9", "says <|user|> twice <|user|>", "last"]
    facts = read_facts(tmp_path / "units", unit)
    assert facts["documents"] == 4
    assert facts["bytes"] == sum(len(document.text.encode()) for document in documents)
    assert facts["skipped"] == {"empty": 2}
    assert facts["control_text"] == 1
    ids = (tmp_path / "units" / unit.key / work.IDS).read_bytes()
    assert ids == b"".join(digest(document.id) for document in documents)
    assert [path.name for path in (tmp_path / "units").iterdir()] == [unit.key]


def test_text_that_imitates_control_tokens_is_left_out_or_refused(
    recipe_of: Callable[..., Recipe], lines: Path, tmp_path: Path
) -> None:
    config, unit = one(recipe_of, lines, on_control_text="skip")
    make_unit(config, unit, tmp_path / "units")
    facts = read_facts(tmp_path / "units", unit)
    assert facts["skipped"] == {"empty": 2, "imitates control tokens": 1}
    assert [record["note"] for record in facts["dropped"] if record["note"]] == ["<|user|>"]
    config, unit = one(recipe_of, lines, on_control_text="refuse")
    with pytest.raises(UserError, match=r"a.jsonl:@52 .*'<\|user\|>' at character 5 imitates a control token"):
        make_unit(config, unit, tmp_path / "units")


def test_what_the_evaluations_hold_is_left_out_under_their_name(
    recipe_of: Callable[..., Recipe], lines: Path, tmp_path: Path
) -> None:
    (tmp_path / "items.txt").write_text("last\n")
    against = {"name": "exam", "path": str(tmp_path / "items.txt")}
    config, unit = one(recipe_of, lines, decontamination={"against": [against], "ngram_words": 2, "min_words": 1})
    make_unit(config, unit, tmp_path / "units")
    facts = read_facts(tmp_path / "units", unit)
    assert facts["decontamination"]["hits"]["exam"]["1"]["documents"] == 1
    assert facts["skipped"]["contaminated"] == 1
    assert [record["note"] for record in facts["dropped"] if record["note"]] == ["exam 1"]


def test_a_unit_stops_at_the_most_documents_of_its_source(
    recipe_of: Callable[..., Recipe], lines: Path, tmp_path: Path
) -> None:
    config, unit = one(recipe_of, lines, source={"max_documents": 2})
    make_unit(config, unit, tmp_path / "units")
    assert [document.text for document in read_unit(tmp_path / "units", unit)] == ["one", "Caf\u00e9"]


def test_a_failing_unit_leaves_nothing(recipe_of: Callable[..., Recipe], lines: Path, tmp_path: Path) -> None:
    config, unit = one(recipe_of, lines)
    lines.unlink()
    with pytest.raises(UserError, match=r"jsonl cannot be read \(a.jsonl: .*No such file.*put the file back"):
        make_unit(config, unit, tmp_path / "units")
    assert list((tmp_path / "units").iterdir()) == []


def test_units_beyond_the_most_documents_of_a_source_are_not_made(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(12):
        lines = (json.dumps({"text": f"document {row} of file {number} " + "x" * 100}) + "\n" for row in range(10))
        (texts / f"{number:02d}.jsonl").write_text("".join(lines))
    item = {"kind": "jsonl", "path": str(texts), "licence": "MIT", "max_documents": 25}
    config = recipe_of(item, unit_bytes=1_500).corpus
    corpus = CorpusWork(config, plan(config), tmp_path / "units")
    assert corpus.make(corpus.units[0], lambda *_: None) == 10
    make_units(corpus)
    assert [is_finished(corpus.root, unit) for unit in corpus.units] == [True] * 3 + [False] * 9
    needed = corpus.needed()
    assert [needed(unit) for unit in corpus.units] == [True] * 3 + [False] * 9
    assert needed.documents(corpus.units[1]) == 10
