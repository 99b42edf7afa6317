from __future__ import annotations

import json
import os
import random
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.corpus.config import CorpusConfig, SourceConfig, SyntheticConfig
from slm.corpus.decontamination.benchmarks import Item, read_items
from slm.corpus.decontamination.check import (
    TASK_FIELDS,
    Decontaminator,
    identity,
    merged,
    read_index,
    with_evaluations,
    word_spans,
)
from slm.corpus.decontamination.config import BenchmarkConfig, DecontaminationConfig
from slm.corpus.decontamination.index import Index
from slm.corpus.decontamination.report import Findings, write_report
from slm.corpus.document import Document, Dropped
from slm.corpus.words import joined_words
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.tasks.config import Layout

DATA = Path(__file__).parents[4] / "shared" / "data"
EVALUATIONS: list[dict[str, Any]] = [
    {"name": "gsm8k", "path": "gsm8k/test.jsonl", "fields": ("question", "answer")},
    {"name": "arc_easy", "path": "mcq-llmfoundry/arc_easy.jsonl", "fields": ("query",), "remove": "^Question:"},
    {
        "name": "hellaswag",
        "path": "hellaswag/hellaswag_val_1000.jsonl",
        "fields": ("ctx", "endings"),
        "id_field": "ind",
    },
    {"name": "humaneval", "path": "humaneval/HumanEval.jsonl.gz", "fields": ("prompt", "canonical_solution")},
    {"name": "mbpp", "path": "mbpp/mbpp.jsonl", "fields": ("text", "code"), "id_field": "task_id"},
]
FILLER = "Nothing in this sentence was ever asked of anybody by any examiner anywhere . "


def document(text: str, name: str = "s/1") -> Document:
    return Document(text, name, "s", "CC0-1.0", "here", {"file": "x"})


def checker(*texts: str, **settings: Any) -> Decontaminator:
    config = DecontaminationConfig(**settings)
    items = [Item(str(number), (text,)) for number, text in enumerate(texts)]
    return Decontaminator(config, Index([("test", items)], config.ngram_words, config.min_words))


def left(check: Decontaminator, documents: list[Document]) -> list[list[Document]]:
    """What is left of each document, without the reasons."""
    return [[one for one in pieces if isinstance(one, Document)] for pieces in check.clean(documents)]


def question(seed: int, words: int = 30) -> str:
    generator = random.Random(seed)
    return " ".join(f"{generator.choice('bdfgklmnprst')}{generator.randrange(10_000)}" for _ in range(words))


def test_a_document_with_an_item_is_dropped_and_others_stay_as_they_are() -> None:
    check = checker(question(1))
    documents = [document(FILLER), document(f"{FILLER}{question(1)} {FILLER}", "s/2"), document("", "s/3")]
    assert left(check, documents) == [[documents[0]], [], [documents[2]]]
    (record,) = check.found.hits["test"].values()
    assert record == {
        "documents": 1,
        "example": {"document": "s/2", "character": len(FILLER), "text": question(1)[:160]},
    }
    assert (check.found.documents, check.found.dropped, check.found.cut) == (3, 1, 0)


def test_what_is_left_out_names_the_items() -> None:
    check = checker(*(question(seed) for seed in range(7)))
    assert check.clean([document(f"{FILLER}{question(3)}")]) == [[Dropped("contaminated", "test 3")]]
    ((dropped,),) = check.clean([document(" ".join(question(seed) for seed in range(7)))])
    assert dropped == Dropped("contaminated", "test 0, test 1, test 2, test 3, test 4 ...")


def test_synthetic_text_is_checked_even_where_the_check_is_off(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(question(1))
    config = DecontaminationConfig(enabled=False, against=(BenchmarkConfig(name="mine", path=str(path)),))
    item = {"kind": "text", "path": "x", "licence": "MIT"}
    made = {"generator": "a model", "version": "3", "filter": "none"}
    written, synthetic = SourceConfig(**item), SourceConfig(**item, synthetic=SyntheticConfig(**made))
    assert left(Decontaminator.of(config, written), [document(question(1))]) == [[document(question(1))]]
    assert left(Decontaminator.of(config, synthetic), [document(question(1))]) == [[]]
    enabled = config.model_copy(update={"enabled": True})
    assert left(Decontaminator.of(enabled, written), [document(question(1))]) == [[]]


def test_golden_prompts_join_the_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(json.dumps({"name": "long", "prompt": question(1)}) + "\n")
    assert with_evaluations(CorpusConfig(), EvaluateConfig()) == CorpusConfig()
    config = with_evaluations(CorpusConfig(), EvaluateConfig(golden=str(path))).decontamination
    check = Decontaminator(config, read_index(config))
    assert left(check, [document(question(1))]) == [[]]
    assert list(check.found.hits["golden"]) == ["long"]
    with pytest.raises(UserError, match=r"evaluate.golden \(missing\) is not a file"):
        with_evaluations(CorpusConfig(), EvaluateConfig(golden="missing"))
    path.write_text("")
    with pytest.raises(UserError, match=r"^evaluate.golden has no item in .*golden.jsonl; correct the path"):
        read_index(with_evaluations(CorpusConfig(), EvaluateConfig(golden=str(path))).decontamination)


LONG = {"a": question(1), "b": question(2)}
ROWS: dict[str, tuple[object, list[str]]] = {
    "query": ({"query": LONG["a"], "choices": [LONG["b"], "no"], "gold": 0}, ["a", "b"]),
    "arc": (
        {"question": {"stem": LONG["a"], "choices": [{"text": LONG["b"], "label": "A"}]}, "answerKey": "A"},
        ["a", "b"],
    ),
    "hellaswag": ({"ctx": LONG["a"], "endings": [LONG["b"], "x"], "label": 0}, ["a", "b"]),
    "xnli": ({"sentence1": LONG["a"], "sentence2": LONG["b"], "gold_label": "neutral"}, ["a", "b"]),
    "gsm8k": ({"question": LONG["a"], "answer": LONG["b"]}, ["a", "b"]),
    "squad": ({"data": [{"paragraphs": [{"context": LONG["b"], "qas": [{"question": LONG["a"]}]}]}]}, ["a"]),
    "humaneval": ({"prompt": LONG["a"], "canonical_solution": LONG["b"]}, ["a", "b"]),
    "mbpp": ({"text": LONG["a"], "code": LONG["b"]}, ["a", "b"]),
    "mt_bench": ({"turns": [LONG["a"], LONG["b"]]}, ["a", "b"]),
    "text": ({"text": LONG["a"]}, ["a"]),
}


def test_every_layout_of_a_task_has_its_fields() -> None:
    assert set(ROWS) == set(TASK_FIELDS) == set(typing.get_args(Layout))


@pytest.mark.parametrize("layout", list(ROWS))
def test_the_items_of_the_recipes_tasks_join_the_evaluations(layout: str, tmp_path: Path) -> None:
    row, found = ROWS[layout]
    path = tmp_path / ("items.json" if layout == "squad" else "items.jsonl")
    path.write_text(json.dumps(row) + "\n")
    evaluate = EvaluateConfig.model_validate({"task_files": [{"name": "mine", "layout": layout, "path": str(path)}]})
    config = with_evaluations(CorpusConfig(), evaluate).decontamination
    for name, text in LONG.items():
        check = Decontaminator(config, read_index(config))
        assert left(check, [document(text)]) == ([[]] if name in found else [[document(text)]])
        assert list(check.found.hits.get("mine", {})) == (["1"] if name in found else [])


def test_a_task_that_is_looked_for_already_is_looked_for_once_and_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text(question(1) + "\n")
    task = {"name": "mine", "layout": "text", "path": str(path)}
    evaluate = EvaluateConfig.model_validate({"task_files": [task]})
    assert [one.name for one in with_evaluations(CorpusConfig(), evaluate).decontamination.against] == ["mine"]
    mine = BenchmarkConfig(name="mine", path=str(path), remove="x")
    config = CorpusConfig(decontamination=DecontaminationConfig(against=(mine,)))
    assert with_evaluations(config, evaluate).decontamination.against == (mine,)
    path.unlink()
    with pytest.raises(
        UserError, match=r"evaluate\.task_files: mine \(.*lines\.txt\) is not a file, so its items cannot"
    ):
        with_evaluations(CorpusConfig(), evaluate)


def test_an_evaluation_of_which_nothing_could_be_found_is_refused_but_golden_prompts_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text(json.dumps({"name": "short", "prompt": "import "}) + "\n")
    named = BenchmarkConfig(name="mine", path=str(path), fields=("prompt",))
    with pytest.raises(UserError, match=r"none of the 1 items of mine \(.*\) has min_words \(8\) words in prompt, so"):
        read_index(DecontaminationConfig(against=(named,)))
    assert len(read_index(DecontaminationConfig(against=(named,), min_words=1))) == 1
    config = with_evaluations(CorpusConfig(), EvaluateConfig(golden=str(path))).decontamination
    counts = write_report(tmp_path, read_index(config), Findings())
    assert counts["evaluations"] == {"golden": {"items": 1, "unchecked": 1, "found": 0}}
    assert "nothing of golden was looked for: none of its 1 items has" in capsys.readouterr().out


def test_the_identity_follows_the_content_of_the_evaluations(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    config = DecontaminationConfig(against=(BenchmarkConfig(name="mine", path=str(path)),))
    found = []
    for number, text in enumerate((question(1), question(2), question(1))):
        path.write_text(text)
        os.utime(path, (number, number))
        found.append(identity(config))
    assert found[0] == found[2] != found[1]
    assert identity(DecontaminationConfig()) == {}


def test_an_item_that_stands_twice_in_a_document_counts_as_one_document() -> None:
    check = checker(question(1))
    left(check, [document(f"{question(1)} {FILLER * 5} {question(1)}")])
    assert check.found.hits["test"]["0"]["documents"] == 1
    assert check.found.hits["test"]["0"]["example"]["character"] == 0


def test_a_cut_takes_the_item_and_its_surroundings_out() -> None:
    before, after = "before " * 100, " after" * 100
    check = checker(question(1), action="cut", cut_characters=50)
    ((one, other),) = left(check, [document(before + question(1) + after)])
    assert one.text == before[:-50]
    assert other.text == after[50:]
    assert [piece.id for piece in (one, other)] == ["s/1#1", "s/1#2"]
    assert one.metadata == {"file": "x", "cut_from": "s/1"}
    assert (check.found.dropped, check.found.cut) == (0, 1)
    assert left(checker(question(1)), [one, other]) == [[one], [other]]


def test_pieces_that_are_too_short_are_left_out() -> None:
    before, after = "before " * 100, " after" * 20
    ((one,),) = left(checker(question(1), action="cut"), [document(before + question(1) + after)])
    assert one.text == before[:-200]
    check = checker(question(1), action="cut")
    assert left(check, [document("before " + question(1))]) == [[]]
    assert (check.found.dropped, check.found.cut) == (1, 0)


def test_a_document_with_many_hits_is_left_out_whole() -> None:
    items = [question(seed) for seed in range(4)]
    text = (FILLER * 20).join(["", *items, ""])
    (pieces,) = left(checker(*items, action="cut", max_cuts=4), [document(text)])
    assert len(pieces) == 5
    assert left(checker(*items, action="cut", max_cuts=3), [document(text)]) == [[]]


@given(st.text(alphabet=st.sampled_from("aÉ\u0301 \n,_她說\u3000.İΣσ'’")))
def test_every_word_has_its_place_in_the_text(text: str) -> None:
    spans = word_spans(text)
    found = joined_words(text)
    assert len(spans) == len(found)
    for word, (begin, end) in zip(found, spans, strict=True):
        assert word in joined_words(text[begin:end])


def test_places_that_touch_become_one() -> None:
    assert merged([(5, 9), (1, 3), (8, 12), (3, 4)]) == [(1, 4), (5, 12)]
    assert merged([]) == []


def test_evaluations_are_read_from_the_files_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": question(1)}) + "\n" + json.dumps({"q": "short"}) + "\n")
    config = DecontaminationConfig(against=(BenchmarkConfig(name="mine", path=str(path), fields=("q",)),))
    index = read_index(config)
    assert [(one.name, one.ids, one.unchecked) for one in index.benchmarks] == [("mine", ("1", "2"), {1})]
    assert len(index.hits([question(1)])) == 1


def upper(text: str) -> str:
    return text.upper()


def without_punctuation(text: str) -> str:
    return re.sub(r"[^\w\s]|_", "", text)


def other_punctuation(text: str) -> str:
    text = re.sub(r"[.,](?=\s|$)", " …", text)
    return re.sub(r"(?<=\w)(?=\s|$)", " – ", text.translate(str.maketrans("'\",-", "’“;‐")))


def other_white_space(text: str) -> str:
    return re.sub(r"\s+", " \u00a0\t ", text)


def broken_lines(text: str) -> str:
    return re.sub(r"\s+", "\n\n> ", text)


CHANGES = [str, upper, without_punctuation, other_punctuation, other_white_space, broken_lines]


def evaluations() -> DecontaminationConfig:
    if not DATA.is_dir():
        pytest.skip(f"needs the public evaluation files in {DATA}")
    against = [BenchmarkConfig(**{**one, "path": str(DATA / one["path"])}) for one in EVALUATIONS]
    return DecontaminationConfig(against=tuple(against))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_item_of_the_public_evaluations_is_found_where_it_is_planted(change: Any) -> None:
    config = evaluations()
    check = Decontaminator(config, read_index(config))
    unchecked = sum(len(one.unchecked) for one in read_index(config).benchmarks)
    planted = []
    for one in config.against:
        for item in read_items(one):
            longest = max(item.texts, key=lambda text: len(joined_words(text)))
            if len(joined_words(longest)) >= config.min_words:
                planted.append((one.name, item.id, document(f"{FILLER}{change(longest)} {FILLER}")))
    assert len(planted) == sum(len(one.ids) for one in read_index(config).benchmarks) - unchecked
    assert len(planted) > 5_500
    for begin in range(0, len(planted), 256):
        part = planted[begin : begin + 256]
        assert not any(left(check, [text for *_, text in part]))
    missed = [(name, item) for name, item, _ in planted if item not in check.found.hits.get(name, {})]
    assert missed == []


def test_text_older_than_the_evaluations_raises_almost_no_alarm() -> None:
    config = evaluations()
    check = Decontaminator(config, read_index(config))
    texts = [path.read_bytes().decode("utf-8", "replace") for path in sorted((DATA / "gutenberg").glob("*.txt"))]
    wiki = [(DATA / "wikitext-2" / name).read_text(encoding="utf-8") for name in ("train.txt", "valid.txt", "test.txt")]
    pieces = [text[begin : begin + 4000] for text in texts + wiki for begin in range(0, len(text), 4000)]
    for begin in range(0, len(pieces), 64):
        left(check, [document(text, str(number)) for number, text in enumerate(pieces[begin : begin + 64], begin)])
    assert len(pieces) > 3_000
    assert check.found.dropped <= 3, check.found.hits
