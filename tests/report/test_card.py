"""The data card: what it shows, what it says of things that nobody recorded, and when it is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from slm.core.artifact import Artifact, Spec, create, open_artifact
from slm.core.errors import UserError
from slm.corpus.config import CorpusConfig
from slm.recipe import Recipe
from slm.report.card import card_sections, make_card
from slm.report.data import changed, duplicates, left_out
from slm.report.gather import Run, data_artifacts, gather_data
from slm.report.page import Section
from slm.report.scan import Scan, scan
from slm.shards.config import MixtureStage
from slm.shards.mixture import describe
from tests.report.conftest import HELD_OUT, HOSTILE, TALLY, make_tokenizer, publish
from tests.report.pages import Checked
from tests.report.test_scan import row

SOURCES = {
    "books": {"documents": 40, "bytes": 4_000, "licence": "CC0-1.0", "origin": "a shelf"},
    "code": {"documents": 20, "bytes": 2_000, "licence": "MIT", "origin": "a repository"},
}
SKIPPED = {"gopher_quality/min_words": 12, "duplicate": 5, "near duplicate": 3, "contaminated": 2}
REPEATED = {
    "scheme": {"algorithm": "MinHash", "algorithm_version": 2, "shingle_words": 5, "bands": 14, "rows": 8, "seed": 42},
    "threshold": 0.8, "documents": 7_070, "copies": 5, "candidate_pairs": 33, "compared_pairs": 22, "crowded_keys": 0,
    "near": 3, "paragraphs": 0, "similarities": {"0.80": 1, "0.95": 2},
}  # fmt: skip
EXAMPLE = {"document": "code/1", "character": 5, "text": "how many | eggs"}


def checked(found: int) -> dict[str, Any]:
    """Figures of a decontamination against one evaluation."""
    evaluations = {"gsm8k": {"items": 1_319, "unchecked": 4, "found": found}}
    return {"checked": 8_282, "dropped": 2, "cut": 1, "entries": 9_876, "evaluations": evaluations}


def corpus_of(recipe: Recipe, **counts: Any) -> Artifact:
    """A corpus of sixty documents with these figures beside those that it cannot do without."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row(number, f"{HOSTILE.encode('utf-8', 'replace').decode()} {number} " * 3) for number in range(40)]
    rows += [row(number, "x" * 2**number, source="code", licence="MIT", language="en") for number in range(20)]
    with create(recipe.folder("corpus"), Spec("corpus", CorpusConfig())) as draft:
        for split, part in (("train", rows[2:]), ("validation", rows[:2])):
            table = pa.table({name: pa.array([item[name] for item in part], pa.string()) for name in part[0]})
            pq.write_table(table, draft.path / f"{split}-00000.parquet")
            draft.counts[split] = {"documents": len(part), "bytes": sum(len(item["text"].encode()) for item in part)}
        hits = {"7": {"documents": 2, "example": EXAMPLE}}
        report = {"evaluations": {"gsm8k": {"hits": hits}, "mbpp": {"hits": {}}}}
        (draft.path / "contamination.json").write_text(json.dumps(report))
        draft.counts.update({"sources": SOURCES, "skipped": SKIPPED, **counts})
    return open_artifact(recipe.folder("corpus"))


def shards_of(recipe: Recipe, **counts: Any) -> Artifact:
    parents = {name: recipe.artifact(name) for name in ("corpus", "tokenizer")}
    sources = {"books": {**TALLY, "tokens": 1_111}, "code": {**TALLY, "tokens": 2_222}}
    return publish(
        recipe, "shards", parents, {"train-books-00000.arrow": "a"}, train=TALLY, validation=HELD_OUT, sources=sources,
        seq_len=256, dtype="uint16", vocab_size=2048, **counts,
    )  # fmt: skip


def looked_at(recipe: Recipe) -> tuple[Run, Scan]:
    run = gather_data(recipe, data_artifacts(recipe))
    return run, scan(run.artifacts["corpus"])


def section_of(recipe: Recipe, key: str) -> Section:
    return next(section for section in card_sections(*looked_at(recipe)) if section.key == key)


def test_the_card_shows_what_every_stage_recorded(recipe: Recipe) -> None:
    corpus = corpus_of(
        recipe,
        skipped_by_source={"books": {"gopher_quality/min_words": 12}, "code": {"duplicate": 5}},
        decontamination=checked(7),
        duplicates=REPEATED,
        cleaning={"pii/emails": 31, "unicode/documents changed": 13},
        mixture="- source: books\n",
    )
    make_tokenizer(recipe, corpus)
    licences = {"CC0-1.0": {"documents": 38, "bytes": 1, "tokens": 3_333}}
    shards_of(recipe, licences=licences, languages={"en": {"documents": 20, "bytes": 1, "tokens": 4_444}})
    card = make_card(recipe)
    assert set(card.manifest["files"]) == {"card.html", "card.md", "lengths.png"}
    assert card.manifest["parents"].keys() == {"corpus", "tokenizer", "shards"}
    page = Checked(card.file("card.html").read_text(encoding="utf-8"))
    text = card.file("card.md").read_text(encoding="utf-8")
    for words in (page.words, " ".join(text.replace("\\", "").split())):
        for expected in (
            "data card", "books", "1,111", "a repository", "3,333", "4,444", "gopher_quality/min_words",
            "near duplicate",
            "gsm8k 7", "how many | eggs", "1,319", "- source: books", "contaminated", "7,070 documents were compared",
            "documents changed", "bytes per token", "21,212", "5.41M",
            "22 documents, 26.8 %",
        ):  # fmt: skip
            assert expected in words, expected
    assert len(page.all("svg")) == 2
    assert not page.all("script")
    assert page.all("title") == [{}, {"id": "lengths-title"}, {"id": "narrow-title"}]
    assert card.file("lengths.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_what_nobody_recorded_is_called_so(recipe: Recipe) -> None:
    corpus_of(recipe)
    shown = make_card(recipe).file("card.md").read_text(encoding="utf-8")
    assert "| books | 40 | 4.0 kB | not recorded | CC0-1.0 | a shelf |" in shown
    assert "| not recorded | 40 |" in shown  # no language
    assert "## Rows" not in shown  # no shards
    assert "slm tokenizer" in make_card(recipe).file("card.html").read_text(encoding="utf-8")
    bare = corpus_of(recipe.model_copy(update={"run": "bare"}), skipped={})
    run = Run(recipe, {"corpus": bare}, [], [], [], [], [])
    assert left_out(run).lead == "Nothing that was read was left out."
    assert duplicates(run).lead.startswith("Whether documents repeat each other is not recorded")
    assert changed(run).lead.endswith("None changed a document that stays.")


def test_of_duplicates_each_figure_and_each_setting_is_shown_once(recipe: Recipe) -> None:
    corpus_of(recipe, duplicates=REPEATED, skipped={**SKIPPED, "mostly repeated lines": 88})
    section = section_of(recipe, "duplicates")
    assert {fact.label: fact.value for fact in section.facts} == {
        "exact copies left out": "5", "near duplicates left out": "3", "pairs compared exactly": "22",
        "repeated paragraphs cut": "0",
    }  # fmt: skip
    assert [(bar.label, bar.value) for bar in section.bars] == [("from 0.80", "1"), ("from 0.95", "2")]
    (settings,) = section.tables
    assert dict(settings.rows) == {
        "least similarity (Jaccard)": "0.8", "words in a run": "5", "keys per document": "14",
        "MinHash values per key": "8", "hashing": "MinHash 2, seed 42",
    }  # fmt: skip
    exact = recipe.model_copy(update={"run": "exact"})
    corpus_of(exact, duplicates={**REPEATED, "scheme": {**REPEATED["scheme"], "bands": 0}, "similarities": {}})
    assert section_of(exact, "duplicates").tables == []
    assert section_of(exact, "duplicates").bars == []


def test_contamination_is_not_looked_for_or_not_met_or_told_item_by_item(recipe: Recipe) -> None:
    corpus_of(recipe, skipped={})
    assert section_of(recipe, "contamination").lead.startswith("The recipe names no evaluation")
    other = recipe.model_copy(update={"run": "clean"})
    corpus_of(other, skipped={}, decontamination=checked(0))
    assert section_of(other, "contamination").lead == "Of 1,319 items of 1 evaluations, what was read held 0."
    third = recipe.model_copy(update={"run": "found"})
    corpus_of(third, decontamination=checked(1))
    section = section_of(third, "contamination")
    assert section.lead.endswith("what was read held 1.")
    facts = {fact.label: fact.value for fact in section.facts}
    assert facts == {"documents checked": "8,282", "left out": "2", "cut": "1", "runs of words looked for": "9,876"}
    evaluations, met = section.tables
    assert evaluations.rows == [("gsm8k", "1,319", "4", "1")]
    assert met.rows == [("gsm8k 7", "2", "code/1", "how many | eggs")]


def test_lengths_add_up_and_name_their_classes(recipe: Recipe) -> None:
    corpus_of(recipe)
    section = section_of(recipe, "lengths")
    (table,) = section.tables
    assert table.folded, "the chart shows the same"
    assert sum(int(count) for _, count, _ in table.rows) == 60
    assert table.rows[0][0] == "1 to 1"
    assert table.rows[-1][0] == "524,288 to 1,048,575"
    assert not section.bars
    facts = {fact.label: fact.value for fact in section.facts}
    assert (facts["shortest"], facts["longest"]) == ("1 B", "524.3 kB")


def test_an_unchanged_card_is_left_alone_and_a_changed_one_made_again(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpus_of(recipe)
    first = make_card(recipe)
    assert make_card(recipe).fingerprint == first.fingerprint
    assert "card: up to date" in capsys.readouterr().out
    make_tokenizer(recipe, corpus)
    assert make_card(recipe).fingerprint != first.fingerprint


def test_a_run_without_a_corpus_has_no_card(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="there is no corpus in"):
        make_card(recipe)
    assert not Path(recipe.runs_dir).exists()


def test_shares_of_the_mixture_are_shown(recipe: Recipe) -> None:
    make_tokenizer(recipe, corpus_of(recipe))
    weights = {"books": 3.0, "code": 1.0}
    stage = {"sources": [{"source": name, "weight": weight} for name, weight in weights.items()]}
    mixture = (MixtureStage.model_validate(stage),)
    weighed = recipe.model_copy(update={"shards": recipe.shards.model_copy(update={"mixture": mixture})})
    shards_of(weighed, mixture=yaml.safe_dump(describe(mixture, {"books": 10, "code": 10}, 256)))
    assert [(bar.label, bar.value) for bar in section_of(weighed, "mixture").bars] == [
        ("main, from token 0: books", "75.0 %"), ("main, from token 0: code", "25.0 %"),
    ]  # fmt: skip
    assert (
        json.loads(json.dumps(CorpusConfig().resolved()))["sources"][0]["kind"]
        in section_of(weighed, "mixture").codes[0].text
    )
