from __future__ import annotations

from slm.report.tasks import above_chance, tasks

FOUND = {
    "tasks": {
        "metrics": [
            {"task": "quiz", "metric": "acc", "value": 0.41, "items": 200, "chance": 0.25, "clean_value": 0.4,
             "clean_interval_95": [0.32, 0.48], "clean_items": 180, "contaminated_items": 20, "unchecked_items": 0,
             "interval_95": [0.34, 0.48], "standard_error": 0.0348},
            {"task": "one", "metric": "f1", "value": 1.0, "items": 1, "chance": None, "clean_value": None,
             "clean_items": 0, "contaminated_items": 0, "unchecked_items": 1, "interval_95": [1.0, 1.0],
             "standard_error": None},
        ],
        "controls": [
            {"task": "quiz", "metric": "acc", "control": "random", "items": 200, "value": 0.26,
             "interval_95": [0.2, 0.32], "difference": 0.15, "difference_95": [0.06, 0.24], "p_value": 0.001,
             "corrected_p": 0.002, "detectable": 0.13},
            {"task": "one", "metric": "f1", "control": "unigram", "items": 1, "value": 1.0,
             "interval_95": [1.0, 1.0], "difference": 0.0, "difference_95": [-0.975, 0.975], "p_value": 1.0,
             "corrected_p": 1.0, "detectable": None},
        ],
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
        "quiz", "acc", "0.410 [0.340, 0.480]", "0.250", "200", "180: 0.400 [0.320, 0.480]", "0.0348",
    )  # fmt: skip
    assert section.tables[0].rows[1][2:] == ("1.000 [1.000, 1.000]", "–", "1", "–", "–")


def test_shares_are_drawn_with_a_mark_at_chance_and_other_quantities_are_not() -> None:
    (figure,) = tasks(FOUND).figures
    assert "quiz · acc" in figure.svg
    assert figure.svg.count("var(--second)") == 1  # of two rows one has a chance
    rating = {**FOUND["tasks"]["metrics"][1], "metric": "rating", "value": 6.0, "interval_95": [5.0, 7.0]}
    bits = {**FOUND["tasks"]["metrics"][1], "metric": "bits_per_byte", "value": 0.9, "interval_95": [0.8, 1.0]}
    assert tasks({"tasks": {"metrics": [rating, bits]}}).figures == []


def test_above_chance_is_what_is_above_it_with_the_whole_interval() -> None:
    metrics = FOUND["tasks"]["metrics"]
    assert above_chance(metrics) == (1, 1)
    assert above_chance([*metrics, {**metrics[0], "interval_95": [0.25, 0.48]}]) == (1, 2)


def test_controls_stand_beside_with_the_paired_difference() -> None:
    table = tasks(FOUND).tables[1]
    assert table.caption == "Beside models that know nothing, on the same items"
    assert table.rows == [
        ("quiz", "acc", "random", "0.260 [0.200, 0.320]", "0.150 [0.060, 0.240]", "0.002", "0.13"),
        ("one", "f1", "unigram", "1.000 [1.000, 1.000]", "0.000 [-0.975, 0.975]", "1", "–"),
    ]
    without = {"tasks": {"metrics": FOUND["tasks"]["metrics"]}}
    assert [one.caption for one in tasks(without).tables] == ["Benchmarks"]


def test_what_the_wording_moves_is_held_against_chance() -> None:
    section = tasks(FOUND)
    assert section.tables[2].rows[0] == ("quiz: first choice at A", "order", "0.500 [0.400, 0.600]")
    _, sentence = section.remarks
    assert "best and worst lie 20.0 % apart, more than equally good ones would by chance (8.0 %)" in sentence
    assert "55.0 % of the items are answered alike" in sentence


def test_without_tasks_it_says_so() -> None:
    assert tasks({}).missing == "slm evaluate with tasks=[NAME, ...], or evaluate=local for the public ones from files"
