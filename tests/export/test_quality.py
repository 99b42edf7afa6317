"""What each file costs on held-out text: measured through its own engine, and refused above its budget."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import slm.export
from slm.compress.measure import HeldOut, answers, answers_of, compare, held_out
from slm.core.errors import UserError
from slm.export.config import ExportConfig
from slm.model.load import load_model
from slm.recipe import Recipe
from tests.tiny_run import tiny_recipe, train, write_source

Exporting = Callable[..., Recipe]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    base = tmp_path_factory.mktemp("quality")
    draw = random.Random(3)
    words = "def return import self None for in range yield class == != lambda ( ) : , .".split()  # noqa: SIM905
    source = write_source(base, "code", [" ".join(draw.choices(words, k=draw.randint(20, 90))) for _ in range(120)])
    return train(tiny_recipe(base, [source], "one", train={"tokens": 8 * 256}))


@pytest.fixture
def exporting(trained: Recipe, tmp_path: Path) -> Exporting:
    """Recipes that export the trained run into a folder of the test's own."""
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    for stage in ("corpus", "tokenizer", "shards", "train"):
        (run / stage).symlink_to(trained.folder(stage))  # type: ignore[arg-type]

    def recipe(*formats: str, **changes: object) -> Recipe:
        export = ExportConfig.model_validate(
            {"formats": formats, "prompts": ("def range (",), "greedy_tokens": 4, "threads": 1, **changes}
        )
        return trained.model_copy(update={"run": "mine", "runs_dir": str(tmp_path / "runs"), "export": export})

    return recipe


def test_every_file_has_its_cost_beside_the_model_in_float32(
    exporting: Exporting, capsys: pytest.CaptureFixture[str]
) -> None:
    made = slm.export.run(exporting("hf", "gguf_f32", "gguf_q4_0", quality={"documents": 5, "positions": 40}))
    found = made.counts["flavours"]
    assert [found[name]["engine"] for name in found] == ["transformers", "llama.cpp", "llama.cpp"]
    assert found["gguf_q4_0"]["file"] == "model-q4_0.gguf"
    costs = {name: facts["cost"] for name, facts in found.items()}
    assert abs(costs["hf"]["increase"]) < 1e-5
    assert costs["hf"]["mean_kl"] < 1e-6 < 1e-4 < costs["gguf_q4_0"]["mean_kl"]
    assert abs(costs["gguf_f32"]["increase"]) < 1e-3
    for cost in costs.values():
        low, high = cost["interval_95"]
        assert low <= cost["increase"] <= high
        assert cost["positions"] == 40
    assert set(made.manifest["parents"]) == {"train", "tokenizer", "corpus"}
    assert "What each file costs on held-out text" in capsys.readouterr().out


def test_a_file_above_its_budget_stops_the_stage_and_leaves_nothing(exporting: Exporting) -> None:
    recipe = exporting("gguf_f32", "gguf_q4_0", quality={"documents": 3, "max_kl": {"gguf_q4_0": 1e-7}})
    with pytest.raises(UserError, match=r"quality\.max_kl\.gguf_q4_0 is 1e-07, it cost .*nothing was published"):
        slm.export.run(recipe)
    assert {path.name for path in recipe.folder("export").parent.iterdir()} == {
        "corpus", "tokenizer", "shards", "train"
    }  # fmt: skip


def test_without_held_out_text_nothing_is_measured_and_that_is_said(
    exporting: Exporting, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = exporting("gguf_q8_0")
    recipe.folder("corpus").unlink()
    made = slm.export.run(recipe)
    assert "cost" not in made.counts["flavours"]["gguf_q8_0"]
    assert "was not measured" in capsys.readouterr().out
    assert set(made.manifest["parents"]) == {"train", "tokenizer"}


def test_files_are_timed_beside_the_checkpoint_where_the_recipe_asks(exporting: Exporting) -> None:
    timing = {"turns": 1, "prompt_tokens": 8, "answer_tokens": 4}
    made = slm.export.run(exporting("gguf_q8_0", quality={"documents": 0}, timing=timing))
    assert made.counts["checkpoint"]["speed"]["decode_ratio"] == 1
    speed = made.counts["flavours"]["gguf_q8_0"]["speed"]
    assert speed["decode_tokens_per_second"] > 0
    assert speed["peak_bytes"] > 0
    assert made.counts["timing"]["threads"] == 1


def test_another_engine_is_asked_what_our_model_is_asked(trained: Recipe) -> None:
    import torch

    model = load_model(trained.artifact("train").path, attention="sdpa").eval()
    text = held_out(trained.artifact("corpus"), trained.artifact("tokenizer").path, 32, 0, 1)
    assert len(text.ids) == trained.artifact("corpus").counts["validation"]["documents"]
    assert len(held_out(trained.artifact("corpus"), trained.artifact("tokenizer").path, 32, 3, 1).ids) == 3

    def logits(ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([ids]))[0].numpy()

    ours, theirs = answers(model, text, 50, stride=32), answers_of(logits, text, 50)  # type: ignore[arg-type]
    np.testing.assert_allclose(theirs.nats_D, ours.nats_D, rtol=1e-5)
    torch.testing.assert_close(theirs.logp_PV, ours.logp_PV, atol=1e-4, rtol=1e-4)
    cost = compare(ours, answers_of(lambda ids: 2 * logits(list(ids)), text, 50), text, seed=1)
    assert cost.mean_kl > 0.01
    one = HeldOut([np.arange(4, 8, dtype=np.int32)], np.array([9.0]), context=32)
    assert answers_of(logits, one, 5).nats_D == pytest.approx(answers(model, one, 5, stride=32).nats_D)  # type: ignore[arg-type]


def test_budgets_are_the_formats_own_unless_the_recipe_names_them() -> None:
    quality = ExportConfig(quality={"max_kl": {"gguf_q8_0": 0.5}}).quality  # type: ignore[arg-type]
    assert quality.budgets("gguf_q8_0") == {"max_bits_per_byte_increase": 0.01, "max_kl": 0.5}
    assert quality.budgets("gguf_q4_0") == {"max_bits_per_byte_increase": 0.1, "max_kl": 0.2}
    with pytest.raises(ValueError, match="gguf_q9"):
        ExportConfig(quality={"max_kl": {"gguf_q9": 0.5}})  # type: ignore[arg-type]
