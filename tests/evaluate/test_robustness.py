"""Variants ask the same question; a model that leans on a format or a position is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from slm.evaluate.robustness import FORMAT, ORDER, spread, variants

PROMPT = "Question: What is 2 + 2?\nAnswer:"
CHOICES = (" three", " four", " five")


def test_every_variant_asks_the_same_and_knows_the_same_answer() -> None:
    found = variants(PROMPT, CHOICES, 1)
    assert [one.name for one in found if one.kind == FORMAT] == [
        "as it is", "cues in capitals", "without cues", "lines apart", "answer on a line of its own",
    ]  # fmt: skip
    assert found[0].prompt == PROMPT
    assert found[1].prompt == "QUESTION: What is 2 + 2?\nANSWER:"
    assert found[2].prompt == "What is 2 + 2?"
    assert found[3].prompt == "Question: What is 2 + 2?\n\nAnswer:"
    assert (found[4].prompt, found[4].choices) == (f"{PROMPT}\n", ("three", "four", "five"))
    assert all(one.original_C[one.gold] == 1 for one in found)
    assert len({one.name for one in found}) == len(found)


def test_the_choices_are_listed_in_every_cyclic_order_by_letter() -> None:
    found = [one for one in variants(PROMPT, CHOICES, 1) if one.kind == ORDER]
    assert [one.gold for one in found] == [1, 0, 2]
    assert found[0].prompt == "Question: What is 2 + 2?\nA. three\nB. four\nC. five\nAnswer:"
    assert found[1].prompt == "Question: What is 2 + 2?\nA. four\nB. five\nC. three\nAnswer:"
    assert [one.name for one in found] == ["first choice at A", "first choice at C", "first choice at B"]
    assert all(one.choices == (" A", " B", " C") for one in found)
    for one in found:
        line = one.prompt.splitlines()[1 + one.gold]
        assert line.endswith("four")


def test_a_prompt_without_cues_or_lines_has_fewer_formats() -> None:
    found = variants("She opened the door and", (" left.", " flew."), 0)
    assert [one.name for one in found if one.kind == FORMAT] == ["as it is", "answer on a line of its own"]
    assert next(one.prompt for one in found if one.kind == ORDER) == "She opened the door and\nA. left.\nB. flew."


@pytest.mark.parametrize("leans", [False, True], ids=["steady", "leans on a position"])
def test_a_model_that_leans_on_a_position_is_found(leans: bool) -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(4, size=400)
    answers = {}
    for shift in range(4):
        knows = generator.random(400) < (0.4 + 0.3 * (leans and shift == 0))
        answers[f"shift {shift}"] = np.where(knows, gold, generator.integers(4, size=400))
    found = spread(ORDER, answers, gold, 0)
    assert (found.distance > found.distance_by_chance) == leans
    best, worst = (how(one.value for one in found.accuracies.values()) for how in (max, min))
    assert found.distance == pytest.approx(best - worst)
    assert found.accuracies["shift 1"].low < found.accuracies["shift 1"].value < found.accuracies["shift 1"].high
    agreeing = np.mean([len({row[n] for row in answers.values()}) == 1 for n in range(400)])
    assert found.agreeing.value == pytest.approx(agreeing)


def test_variants_with_the_same_answers_agree_on_all_and_lie_nowhere_apart() -> None:
    answer = np.array([0, 1, 2, 1])
    found = spread(FORMAT, {"one": answer, "two": answer}, np.array([0, 1, 1, 1]), 0)
    assert (found.distance, found.agreeing.value) == (0.0, 1.0)
    assert found.accuracies["one"].value == 0.75
