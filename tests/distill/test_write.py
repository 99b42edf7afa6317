"""A file holds what the teacher says of each row's targets, and zeros where nothing is to be learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import slm.corpus
import slm.distill
import slm.shards
from slm.core.artifact import Artifact
from slm.core.batch import IGNORED
from slm.core.errors import UserError
from slm.distill.keep import draws, likeliest, uniforms
from slm.model.load import load_model
from slm.recipe import Recipe, build_recipe
from slm.shards.loader import read_batch
from slm.shards.reader import ShardReader

MakeRecipe = Callable[..., Recipe]


def said(teacher: Recipe, shards: Artifact, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's logits at each position of a row, each document alone, and the row's targets."""
    model = load_model(teacher.artifact("train").path).eval()
    batch = read_batch(ShardReader(shards, "train"), [row])
    logits = torch.zeros(batch.tokens_BT.shape[1], model.config.vocab_size)
    for document in range(int(batch.documents_BT.max()) + 1):
        places = (batch.documents_BT[0] == document).nonzero()[:, 0]
        with torch.no_grad():
            logits[places] = model(batch.tokens_BT[:, places])[0]
    return logits, batch.targets_BT[0]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_are_those_of_the_row_whatever_file_and_batch_it_is_in(
    stored: Artifact, recipe_of: MakeRecipe, teacher: Recipe, temperature: float
) -> None:
    shards, store = teacher.artifact("shards"), stored
    if temperature != 1:
        made = slm.distill.run(recipe_of("warm", temperature=temperature, unit_tokens=7 * 32, batch_tokens=3 * 32))
        assert made is not None
        store = made
    for row in (0, 25, int(store.counts["rows"]) - 1):
        logits, targets = said(teacher, shards, row)
        points = torch.from_numpy(uniforms(store.counts["seed"], row, len(targets)))
        ids, values = draws(logits / temperature, points, 16)
        found, kept = ShardReader(shards, "train", store).stored, targets != IGNORED
        assert found is not None
        mine = found.rows([row])
        assert float((mine.ids_BTK[0, kept] == ids[kept]).float().mean()) > 0.999  # but for a rounding at a border
        torch.testing.assert_close(mine.values_BTF[0, kept], values[kept], atol=4e-3, rtol=1e-3)
        assert not mine.ids_BTK[0, ~kept].any()
        assert not mine.values_BTF[0, ~kept].any()
        assert mine.sampled


def test_the_likeliest_tokens_come_with_their_probabilities(recipe_of: MakeRecipe, teacher: Recipe) -> None:
    store = slm.distill.run(recipe_of("likeliest", method="top_k", kept=6))
    assert store is not None
    logits, targets = said(teacher, teacher.artifact("shards"), 3)
    found, kept = ShardReader(teacher.artifact("shards"), "train", store).stored, targets != IGNORED
    assert found is not None
    mine, (ids, p) = found.rows([3]), likeliest(logits, 6)
    assert not mine.sampled
    assert float((mine.ids_BTK[0, kept] == ids[kept]).float().mean()) > 0.99
    torch.testing.assert_close(mine.values_BTF[0, kept], p[kept], atol=1e-4, rtol=1e-3)
    assert 0 < store.counts["mean_kept_mass"] < 1
    assert store.counts["bytes_per_token"] < 4 * 6 + 8


def test_what_a_conversation_does_not_learn_is_not_stored(
    recipe_of: MakeRecipe, teacher: Recipe, tmp_path: Path
) -> None:
    lines = [{"prompt": f"not {n} and {n} is", "completion": f"is {2 * n}"} for n in range(120)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "talk.jsonl"), "licence": "CC0-1.0",
              "conversations": "prompt_completion"}  # fmt: skip
    talks = build_recipe(
        {**teacher.resolved(), "run": "talks", "runs_dir": str(tmp_path), "start": "corpus", "stop": "report",
         "corpus": {"sources": [source], "validation_fraction": 0.2, "duplicates": {"near": False}},
         "shards": {"seq_len": 64}, "artifacts": {"tokenizer": str(teacher.folder("tokenizer"))}}
    )  # fmt: skip
    for stage in (slm.corpus, slm.shards):
        stage.run(talks)
    shards = talks.artifact("shards")
    store = slm.distill.run(recipe_of("talks", artifacts={"shards": str(shards.path)}))
    assert store is not None
    reader = ShardReader(shards, "train", store)
    batch = read_batch(reader, range(reader.num_rows))
    assert batch.stored is not None
    asked = batch.targets_BT != IGNORED
    assert store.counts["targets"] == batch.num_targets == int(asked.sum()) < 0.7 * int((batch.documents_BT >= 0).sum())
    assert torch.equal(batch.stored.values_BTF[..., 0] > 0, asked)


def test_a_device_that_is_not_there_is_refused(recipe_of: MakeRecipe) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"distill\.device is cuda, but torch sees no GPU here"):
        slm.distill.run(recipe_of("gpu", device="cuda"))


def test_a_teacher_over_several_devices_says_the_same(stored: Artifact, recipe_of: MakeRecipe) -> None:
    recipe = recipe_of("spread")
    distill = recipe.objective.distill.model_copy(update={"teacher_memory_bytes": {"cpu": 90_000}})
    objective = recipe.objective.model_copy(update={"distill": distill})
    made = slm.distill.run(recipe.model_copy(update={"objective": objective}))
    assert made is not None
    assert made.fingerprint == stored.fingerprint


def test_half_precision_changes_few_draws(stored: Artifact, recipe_of: MakeRecipe, teacher: Recipe) -> None:
    made = slm.distill.run(recipe_of("half", precision="bf16"))
    assert made is not None
    rows = range(made.counts["rows"])
    both = [ShardReader(teacher.artifact("shards"), "train", store).stored for store in (stored, made)]
    first, second = (reader.rows(rows).ids_BTK.numpy() for reader in both if reader is not None)
    assert 0.9 < np.mean(first == second) < 1
