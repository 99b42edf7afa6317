"""What is left out is counted by reason."""

from __future__ import annotations

from slm.evaluate.tasks.outcome import Outcome


def test_reasons_are_counted():
    outcome = Outcome()
    outcome.skip("too long")
    outcome.skip("empty", 3)
    outcome.skip("too long", 2)
    assert outcome.skipped == {"too long": 3, "empty": 3}
    assert Outcome().skipped == {}
