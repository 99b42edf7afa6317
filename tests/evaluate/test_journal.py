"""What was answered survives whatever ends the process."""

from __future__ import annotations

import json

from slm.evaluate.journal import Journal, key_of


def test_answers_are_there_after_a_restart(tmp_path):
    path = tmp_path / "deep" / "answers.jsonl"
    with Journal(path) as journal:
        assert journal.resumed == 0
        journal.put([("a", [1.5, True]), ("b", "é\n")])
    with Journal(path) as journal:
        assert (journal.resumed, journal.get("a"), journal.get("b"), journal.get("c")) == (2, [1.5, True], "é\n", None)
        journal.put([("c", None)])
    assert [json.loads(line)[0] for line in path.read_text().splitlines()] == ["a", "b", "c"]


def test_a_torn_line_is_dropped_and_written_over(tmp_path):
    path = tmp_path / "answers.jsonl"
    with Journal(path) as journal:
        journal.put([("a", 1), ("b", 2)])
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert (journal.resumed, journal.get("b")) == (1, None)
            journal.put([("b", 3)])
        with Journal(path) as journal:
            assert (journal.get("a"), journal.get("b")) == (1, 3)
    path.write_bytes(b'["a", 1]\n["b", \n["c", 2]\n')
    with Journal(path) as journal:
        assert (journal.get("a"), journal.get("c")) == (1, None)


def test_keys_depend_on_every_part():
    keys = {key_of("a", [1, 2]), key_of("a", [1], 2), key_of("a", [12]), key_of("b", [1, 2])}
    assert len(keys) == 4
    assert key_of({"x": 1, "y": 2}) == key_of({"y": 2, "x": 1})
