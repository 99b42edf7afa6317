"""The page of an ablation: each change with its interval, and no claim beyond it."""

from __future__ import annotations

from slm.evaluate.ablation import Ablation, Effect, Group
from slm.evaluate.statistics.replicates import OverSeeds
from slm.report.ablation import ablation_page, rows, verdict


def effect(change: str, value: float, p_value: float, num_changed: int = 1) -> Effect:
    base, gap = (
        OverSeeds(2.0, 0.01, 1.9, 2.1, 0.0, 3),
        OverSeeds(value, 0.01, value - 0.1, value + 0.1, p_value, 3, True),
    )
    return Effect("bits per byte", True, ("run",), change, num_changed, base, base, gap, p_value)


def test_every_change_stands_with_its_interval():
    base = Group({}, {"bits per byte": {1: 2.0, 2: 2.1, 3: 1.9}}, ["base-seed1", "base-seed2", "base-seed3"])
    found = Ablation(base, [effect("train.clip_norm: 1.0 -> 0.5", -0.2, 0.01), effect("model.<b>: 1 -> 2", 0.01, 0.8)])
    page = ablation_page(found)
    assert "Of 2 differences, 1 are told from chance at 5% after Holm" in page
    assert "train.clip_norm: 1.0 -&gt; 0.5" in page
    assert "model.<b>" not in page
    assert "-0.2000 [-0.3000, -0.1000]" in page
    assert page.count("<svg") == 2
    assert "2 changes of base-seed1" in page
    assert [row[-1] for row in rows(found)] == ["better", "not told from chance"]


def test_the_verdict_follows_p_value_direction_and_the_number_of_changes():
    assert verdict(effect("a", 0.2, 0.01)) == "worse"
    assert verdict(effect("a", -0.2, 0.01, 2)) == "better; 2 things at once"
