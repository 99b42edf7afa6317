"""The page of an ablation: each change with its interval, and no claim beyond it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

from slm.core.artifact import Spec, create, open_artifact
from slm.distill.config import DistillConfig
from slm.evaluate.ablation import Ablation, Effect, Group
from slm.evaluate.statistics.replicates import OverSeeds
from slm.model.counting import flops_per_token
from slm.recipe import Recipe
from slm.report.ablation import ablation_page, costs, rows, verdict
from slm.report.page import power
from tests.evaluate.planted import publish_checkpoint


def effect(change: str, value: float, p_value: float, num_changed: int = 1) -> Effect:
    base, gap = (
        OverSeeds(2.0, 0.01, 1.9, 2.1, 0.0, 3),
        OverSeeds(value, 0.01, value - 0.1, value + 0.1, p_value, 3, True),
    )
    return Effect("bits per byte", True, ("run",), change, num_changed, base, base, gap, p_value)


def test_every_change_stands_with_its_interval():
    base = Group({}, {"bits per byte": {1: 2.0, 2: 2.1, 3: 1.9}}, ["base-seed1", "base-seed2", "base-seed3"])
    effects = [effect("train.clip_norm: 1.0 -> 0.5", -0.2, 0.01), effect("model.<b>: 1 -> 2", 0.01, 0.8)]
    found = Ablation(base, effects, [])
    page = ablation_page(found)
    assert "Of 2 differences, 1 is told from chance at 5% after Holm" in page
    assert "train.clip_norm: 1.0 -&gt; 0.5" in page
    assert "model.<b>" not in page
    assert "-0.2000 [-0.3000, -0.1000]" in page
    assert page.count("<svg") == 2
    assert "2 changes of base-seed1" in page
    assert [row[-1] for row in rows(found)] == ["better", "not told from chance"]


def test_values_of_one_setting_and_sizes_of_adapters_are_drawn():
    base = Group({}, {"bits per byte": {1: 2.0, 2: 2.1, 3: 1.9}}, ["base-seed1"] * 3, [], 16_000)
    ranks = [
        replace(
            effect(f"rank {rank}", -0.01 * rank, 0.01),
            values={"train.lora.rank": (16, rank)},
            trained_bytes=rank * 1000,
        )
        for rank in (4, 8)
    ]
    whole = replace(
        effect("all", -0.3, 0.01, 2), trained_bytes=900_000,
        values={"train.lora.rank": (16, None), "train.optimizer.lr": (1, 2)},
    )  # fmt: skip
    page = ablation_page(Ablation(base, [*ranks, whole], []))
    assert page.count("difference from the base, by train.lora.rank.<") == 1
    assert page.count("difference from the base, by the size of what was trained.<") == 1
    assert page.count("<svg") == 6
    drawn = re.findall(r"<text[^>]*>([^<]+)</text>|<!-- (.+?) -->", page)
    told = {one or other for one, other in drawn}
    assert {"rank 4", "rank 8", "base", "all weights"} <= told
    assert "rank None" not in page
    assert "by train.lora.rank" not in ablation_page(Ablation(base, [ranks[0], whole], []))


def test_the_verdict_follows_p_value_direction_and_the_number_of_changes():
    assert verdict(effect("a", 0.2, 0.01)) == "worse"
    assert verdict(effect("a", -0.2, 0.01, 2)) == "better; 2 things at once"


def test_what_each_group_took_counts_the_teachers_forward_and_names_the_store(tmp_path: Path) -> None:
    teacher = publish_checkpoint(tmp_path / "teacher", 5, model={"layers": 8})
    counts = {"bytes_per_token": 36.0, "rows": 1000, "seq_len": 256, "seconds": 90.0}
    with create(tmp_path / "store", Spec("distill", DistillConfig())) as draft:
        draft.counts.update(counts)
    store = open_artifact(tmp_path / "store")
    groups = []
    for name, beside in (("alone", {}), ("online", {"teacher": teacher}), ("stored", {"distill": store})):
        run = tmp_path / name
        checkpoint = publish_checkpoint(run, 3_000, beside=beside)
        if name == "online":
            (run / "train" / "ledger.jsonl").write_text(
                json.dumps({"process": "1", "phases": {"compute": 61.0, "start": 4.0}}) + "\n"
            )
        groups.append(Group({"made from.teacher": name}, {}, [name], [checkpoint]))
    alone, online, stored = costs(Ablation(groups[0], [], groups))
    recipe = Recipe()
    ours = flops_per_token(recipe.model, recipe.shards.seq_len) * 3_000
    theirs = flops_per_token(recipe.model.model_copy(update={"layers": 8}), recipe.shards.seq_len) * 1_000
    assert alone == ("the base", "1", "3,000", power(ours), "-", "unknown", "-")
    assert online[3:6] == (power(ours), power(theirs), "1 min 05 s")
    assert stored[-1] == "a store of 9.2 MB, 36 B a token, in 1 min 30 s"
    shutil.rmtree(store.path)
    assert costs(Ablation(groups[0], [], groups))[2][-1] == "a store that is gone"
