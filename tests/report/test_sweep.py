"""The page of a search: claims of finalists alone, every trial, and charts that a diverged trial does not flatten."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

from slm.evaluate.statistics.replicates import OverSeeds
from slm.evaluate.trials import Finalist, Trial
from slm.report.sweep import Search, counted, lowest_so_far, picture, reach, sweep_page, verdict


def trials() -> list[Trial]:
    draw, found = random.Random(1), []
    for number in range(20):
        lr, kind = 10 ** draw.uniform(-4, 0), draw.choice(["adamw", "muon"])
        bits = 2 + (math.log10(lr) + 2) ** 2
        state, last = ("ended early", 2) if number > 5 and bits > 3 else ("finished", 4)
        measured = {place: bits + 1 / place for place in range(1, last + 1)}
        settings = {"train.optimizer.lr": lr, "train.optimizer.kind": kind}
        found.append(Trial(number, state, settings, measured, 1e12, 60.0))
    found.append(
        Trial(20, "failed", {"train.optimizer.lr": 0.9, "train.optimizer.kind": "muon"}, {}, 0.0, 0.0, "<b>oh")
    )
    return found


def search(p_value: float = 0.01) -> Search:
    made = trials()
    lowest = min((one for one in made if one.value is not None), key=lambda one: one.value or 0.0)
    gap = OverSeeds(-0.05, 0.01, -0.09, -0.01, p_value, 3, paired=True)
    again = Finalist(lowest, OverSeeds(2.3, 0.01, 2.25, 2.35, 0.0, 3), 2.4, gap, p_value)
    keys = ["train.optimizer.lr", "train.optimizer.kind"]
    shares = {keys[0]: 0.9, keys[1]: 0.1}
    return Search("tuned", keys, keys[:1], made, shares, [again], ["python -m slm.pipeline recipe=tuned"])


def test_the_page_says_what_is_worth_over_seeds_and_how_it_was_found():
    found = search()
    page = sweep_page(found)
    for words in ("Finalists", "Course of the search", "PED-ANOVA", "recipe=tuned", "(the winner&#39;s curse)",
                  "-0.0500 [-0.0900, -0.0100]", "These documents also chose the finalists", "&lt;b&gt;oh"):  # fmt: skip
        assert words in page, words
    assert "<b>oh" not in page
    assert not re.findall(r'(?:src|href)="(?!#)', page), "it asks nobody for anything"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert page.count("<svg") == 2 * 4 + 2  # four charts in two sizes, and a small one for each setting


def test_no_claim_is_made_that_seeds_do_not_bear_out():
    assert verdict(search()).startswith("1 of 1 finalists are better than the recipe as it is at 5 %")
    assert verdict(search(0.2)).startswith("No finalist is better than the recipe as it is at 5 %: trial-")
    assert "nothing is claimed" in verdict(replace(search(), finalists=[], commands=[]))


def test_a_diverged_trial_does_not_flatten_the_rest():
    found = search()
    wild = Trial(21, "finished", found.trials[0].settings, {1: 1e4, 4: 1e4}, 1.0, 1.0)
    low, high = reach(replace(found, trials=[*found.trials, wild]))
    assert high < 20
    assert low < min(one.value for one in found.trials if one.value is not None)


def test_the_line_falls_and_the_counts_are_in_words():
    line = lowest_so_far(trials())
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    assert "1 failed" in counted(trials())


def test_the_picture_is_a_png(tmp_path):
    picture(tmp_path / "sweep.png", search())
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_of_one_setting_has_no_parallel_coordinates():
    found = search()
    one = replace(found, keys=found.keys[:1], importances={}, finalists=[], commands=[])
    page = sweep_page(one)
    assert page.count("<svg") == 2 * 2 + 1
    assert "PED-ANOVA" not in page
