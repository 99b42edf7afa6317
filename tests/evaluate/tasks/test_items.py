"""Items keep their names, and are clean only where the corpus was checked for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm.core.artifact import Spec, make
from slm.core.errors import UserError
from slm.corpus.decontamination.config import DecontaminationConfig
from slm.evaluate.tasks.items import few_shot, read


def rows(number: int) -> list[dict]:
    return [{"query": f"q{n}", "choices": ["a", f"b{n}"], "gold": n % 2, "name": f"n{n}"} for n in range(number)]


@pytest.fixture
def corpus(tmp_path):
    """A corpus that was checked for the task `made` by number and for `named` by name."""

    def build(draft):
        figures = {"items": 4, "unchecked": 1, "found": 1}
        evaluations = {
            "made": {**figures, "hits": {"2": {"documents": 1}}, "clean_items": ["1", "4"]},
            "named": {**figures, "hits": {"n1": {"documents": 3}}, "clean_items": ["n0", "n3"]},
        }
        (draft.path / "contamination.json").write_text(json.dumps({"evaluations": evaluations}))

    return make(tmp_path / "corpus", Spec("corpus", DecontaminationConfig()), build)


def test_ids_depend_on_the_item_and_not_on_its_place(task):
    first = read(task("query", rows(5)), None)
    turned = read(task("query", rows(5)[::-1], name="turned"), None)
    assert [one.id for one in first] == [one.id for one in turned][::-1]
    assert len({one.id for one in first}) == 5
    assert {one.clean for one in first} == {None}
    twice = read(task("query", rows(2) + rows(1), name="twice"), None)
    assert len({one.id for one in twice}) == 3
    assert [one.id for one in read(task("query", rows(3), name="given", id_field="name"), None)] == ["n0", "n1", "n2"]


def test_an_item_is_clean_or_contaminated_only_where_it_was_looked_for(task, corpus):
    assert [one.clean for one in read(task("query", rows(4)), corpus)] == [True, False, None, True]
    named = task("query", rows(4), name="named", id_field="name")
    assert [one.clean for one in read(named, corpus)] == [True, False, None, True]
    assert {one.clean for one in read(task("query", rows(4), name="other"), corpus)} == {None}


def test_rows_of_other_languages_do_not_shift_what_is_known_of_an_item(task, corpus):
    row = {"sentence1": "It rains.", "sentence2": "It is wet.", "gold_label": "entailment"}
    mixed = [{**row, "language": language, "sentence1": f"{n}"} for n, language in enumerate(("fr", "de", "fr", "de"))]
    assert [one.clean for one in read(task("xnli", mixed, language="de"), corpus)] == [False, True]


def test_some_items_are_taken_at_even_distances(task, corpus):
    some = read(task("query", rows(4), max_items=2), corpus)
    assert [(one.item.prompt, one.clean) for one in some] == [("q1", False), ("q3", True)]
    assert len(read(task("query", rows(4), max_items=9), None)) == 4


def test_examples_come_from_their_own_file_with_their_answers(task):
    examples = task("query", rows(3), name="train").path
    config = task("query", rows(2)).model_copy(update={"few_shot": 2, "examples": examples})
    assert few_shot(config) == "q0 a\n\nq1 b1\n\n"
    assert few_shot(task("query", rows(2))) == ""
    with pytest.raises(UserError, match=r"few_shot \(4\) asks for more examples than .*train.jsonl holds \(3\); lower"):
        few_shot(config.model_copy(update={"few_shot": 4}))


def test_questions_about_paragraphs_are_items_of_their_own(task):
    asked = [{"id": f"q{n}", "question": f"{n}?", "answers": [{"text": str(n)}]} for n in range(3)]
    content = {"data": [{"paragraphs": [{"context": "c", "qas": asked[:2]}, {"context": "d", "qas": asked[2:]}]}]}
    config = task("squad", content, suffix="json", id_field="id")
    assert [one.id for one in read(config, None)] == ["q0", "q1", "q2"]


def test_files_that_name_no_item_are_refused(task):
    with pytest.raises(UserError, match=r"evaluate.task_files: made has no item in .*made.jsonl; correct the path"):
        read(task("query", []), None)
    with pytest.raises(UserError, match="an item has no field absent; correct id_field or the file"):
        read(task("query", rows(2), id_field="absent"), None)
    with pytest.raises(UserError, match="two items have gold 0; name another id_field"):
        read(task("query", rows(3), id_field="gold"), None)
    config = task("query", rows(2))
    Path(config.path).write_text('{"query": \n')
    with pytest.raises(UserError, match=r"made.jsonl:1: not JSON \(Expecting value at character 10\); correct it"):
        read(config, None)
