from __future__ import annotations

from slm.report.tasks import tasks

FOUND = {
    "tasks": {
        "metrics": [
            {"task": "quiz", "metric": "acc", "value": 0.41, "items": 200, "chance": 0.25, "clean_value": 0.4,
             "clean_items": 180, "contaminated_items": 20, "unchecked_items": 0, "interval_95": [0.34, 0.48],
             "standard_error": 0.0348},
            {"task": "one", "metric": "f1", "value": 1.0, "items": 1, "chance": None, "clean_value": None,
             "clean_items": 0, "contaminated_items": 0, "unchecked_items": 1, "interval_95": [1.0, 1.0],
             "standard_error": None},
        ]
    },
    "robustness": {
        "quiz": {
            "items": 200, "left_out": {"order": 0}, "spreads": [
                {"kind": "order", "accuracies": {name: {"value": value, "low": value - 0.1, "high": value + 0.1}
                 for name, value in (("first choice at A", 0.5), ("first choice at B", 0.3))},
                 "distance": 0.2, "distance_by_chance": 0.08, "agreeing": {"value": 0.55}},
            ],
        }
    },
}  # fmt: skip


def test_every_mean_stands_with_its_interval_and_chance() -> None:
    section = tasks(FOUND)
    assert section.tables[0].rows[0] == (
        "quiz", "acc", "200", "0.410 [0.340, 0.480]", "0.0348", "0.250", "0.400 (180)",
    )  # fmt: skip
    assert section.tables[0].rows[1][3:] == ("1.000 [1.000, 1.000]", "–", "–", "–")


def test_what_the_wording_moves_is_held_against_chance() -> None:
    section = tasks(FOUND)
    assert section.tables[1].rows[0] == ("quiz: first choice at A", "order", "0.500 [0.400, 0.600]")
    (sentence,) = section.remarks
    assert "best and worst lie 20.0 % apart, more than equally good ones would by chance (8.0 %)" in sentence
    assert "55.0 % of the items are answered alike" in sentence


def test_without_tasks_it_says_so() -> None:
    assert tasks({}).lead == "No tasks were run; evaluate.tasks names them."
    assert tasks({}).empty
