"""The compress stage over a trained run: what it publishes is what it measured, and nothing above its budget."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import slm.compress.stream
import slm.export
from slm.compress import run
from slm.compress.files import load_compressed
from slm.compress.stage import work_folder
from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.score import score
from slm.export.config import Quality
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.serve.gguf_file import read_gguf
from slm.shards.reader import ShardReader

Compressing = Callable[..., Recipe]
INT8 = {"name": "int8", "method": "rtn", "bits": 8, "group_size": 0, "symmetric": True}
AWQ = {"name": "awq", "group_size": 64, "bits": 3}
RTN = {"name": "rtn", "method": "rtn", "group_size": 64, "bits": 3}
GPTQ = {"name": "gptq", "method": "gptq", "group_size": 64, "bits": 3}


def contents(artifact: Artifact) -> dict[str, str]:
    return {name: record["sha256"] for name, record in artifact.manifest["files"].items()}


def test_every_variant_is_published_with_its_price(
    compressing: Compressing, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(compressing(INT8, AWQ, RTN, GPTQ))
    costs = made.counts["variants"]
    assert costs == json.loads(made.file("cost.json").read_text())["variants"]
    assert abs(costs["int8"]["increase"]) < 0.01
    assert costs["int8"]["top1_agreement"] > 0.9
    for name in ("awq", "gptq"):
        assert costs["int8"]["mean_kl"] < costs[name]["mean_kl"] < costs["rtn"]["mean_kl"]
    for name, cost in costs.items():
        low, high = cost["interval_95"]
        assert low <= cost["increase"] <= high
        assert cost["size_bytes"] == sum(
            record["size_bytes"]
            for file, record in made.manifest["files"].items()
            if file.startswith(f"{name}/") and file.endswith(".safetensors")
        )
    assert made.counts["calibration"]["rows"] == 32
    printed = capsys.readouterr().out
    assert "awq, 3 bits, groups of 64" in printed
    assert "compress: awq: ffn.down has rows of 96, so its groups are of 32 instead of 64" in printed


def test_what_was_measured_is_what_the_files_hold(compressing: Compressing) -> None:
    recipe = compressing(AWQ)
    made = run(recipe)
    model = load_compressed(made.path / "awq").eval()
    plain = load_model(recipe.artifact("train").path, attention="sdpa").eval()
    reader = ShardReader(recipe.artifact("shards"), "validation")
    tokens_NT, lengths = reader.rows(range(reader.num_rows))
    documents = [
        part
        for row, sizes in zip(tokens_NT, lengths, strict=True)
        for part in np.split(row.astype(np.int32), np.cumsum(sizes))[: len(sizes)]
        if len(part) > 1
    ]
    before, after = (score(one, documents, context=32, stride=16, batch_tokens=512).sum() for one in (plain, model))
    rise = (after - before) / math.log(2) / made.counts["variants"]["awq"]["increase"]
    held_out = recipe.artifact("corpus").counts["validation"]["bytes"]
    assert rise == pytest.approx(held_out, rel=0.2)  # rows cut some documents, and so their context


KILLED = """
import os, signal, sys, torch
import slm.compress.stream as stream
from slm.compress import run
from slm.recipe import Recipe

torch.set_num_threads(int(sys.argv[1]))
real = stream.compress_block

def dying(block, *others):
    if block.layer == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(block, *others)

stream.compress_block = dying
run(Recipe.model_validate_json(sys.stdin.read()))
"""


def test_a_killed_run_goes_on_from_its_last_block_to_the_same_files(
    compressing: Compressing, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = compressing(AWQ, GPTQ)
    whole = contents(run(recipe))
    shutil.rmtree(recipe.folder("compress"))
    real, calls = slm.compress.stream.compress_block, list[int]()

    def counted(block: Any, *others: Any) -> Any:
        calls.append(block.layer)
        return real(block, *others)

    command = [sys.executable, "-c", KILLED, str(torch.get_num_threads())]
    killed = subprocess.run(command, input=recipe.model_dump_json(), capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not recipe.folder("compress").exists()
    assert len(list(work_folder(recipe).glob("awq-*/block-*"))) == 2
    monkeypatch.setattr("slm.compress.stream.compress_block", counted)
    made = run(recipe)
    assert calls == [2, 0, 1, 2]
    assert contents(made) == whole
    assert not work_folder(recipe).exists()


def test_one_above_its_budget_is_not_published_and_another_budget_makes_nothing_anew(
    compressing: Compressing, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"compress\.variants\.rtn\.max_kl is 1e-06, it cost .*nothing was published"):
        run(compressing({**RTN, "max_kl": 1e-6}))
    recipe = compressing(RTN)
    assert not recipe.folder("compress").exists()
    monkeypatch.setattr("slm.compress.stream.compress_block", lambda *_: pytest.fail("made anew"))
    assert run(recipe).counts["variants"]["rtn"]["mean_kl"] > 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_misfit": "refuse"}, r"group_size \(64\) does not divide the rows of ffn\.down \(96 weights\); take 32"),
        ({"calibration": {"tokens": 10**9}}, r"calibration\.tokens \(1,000,000,000\) asks for .* rows; lower it|rows"),
        ({"calibration": {"text": "/nowhere.txt"}}, r"calibration\.text \(/nowhere\.txt\) is not a file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    compressing: Compressing, changes: dict[str, Any], message: str
) -> None:
    recipe = compressing(AWQ, **changes)
    with pytest.raises(UserError, match=message):
        run(recipe)
    assert not recipe.folder("compress").exists()


def test_no_variants_is_refused_with_the_way_to_name_some(compressing: Compressing) -> None:
    with pytest.raises(UserError, match=r"compress\.variants is empty.*compress=ship"):
        run(compressing())


def test_a_variant_leaves_in_autoawqs_form_proved_against_what_its_integers_stand_for(compressing: Compressing) -> None:
    recipe = compressing({"name": "int4", "group_size": 32})
    run(recipe)
    section = recipe.export.model_copy(update={"formats": ("hf", "awq"), "prompts": ("def range (", "None")})
    made = slm.export.run(recipe.model_copy(update={"export": section}))
    assert set(made.manifest["parents"]) == {"train", "tokenizer", "compress", "corpus"}
    assert "awq/model.safetensors" in made.manifest["files"]
    assert made.counts["parity"]["hf"]["max_delta"] < made.counts["parity"]["awq"]["max_delta"] <= 1e-2
    other = recipe.export.model_copy(update={"formats": ("awq",), "variant": "int3"})
    with pytest.raises(UserError, match=r"export\.variant \(int3\) must be a variant in .* \(int4\)"):
        slm.export.run(recipe.model_copy(update={"export": other}))


def test_scaled_weights_leave_as_gguf_proved_against_the_checkpoint(compressing: Compressing) -> None:
    recipe = compressing({"name": "scaled", "method": "scale", "group_size": 32}, {"name": "int4", "group_size": 32})
    made = run(recipe)
    assert abs(made.counts["variants"]["scaled"]["increase"]) < 1e-4
    changes = {"formats": ("hf", "gguf_f32", "gguf_q4_0"), "gguf_variant": "scaled", "max_logprob_delta_q4": 9.0}
    changes["quality"] = Quality(documents=0)
    section = recipe.export.model_copy(update={**changes, "prompts": ("def range (", "None"), "greedy_tokens": 6})
    exported = slm.export.run(recipe.model_copy(update={"export": section}))
    assert exported.counts["parity"]["gguf_f32"]["max_delta"] <= 1e-4
    checkpoint = load_model(recipe.artifact("train").path).state_dict()
    for file, same in (("model-f32.gguf", False), ("hf/model.safetensors", True)):
        if same:
            found = load_file(exported.file(file))["model.layers.0.mlp.up_proj.weight"].numpy()
        else:
            found = read_gguf(exported.file(file)).tensors["blk.0.ffn_up.weight"].data()
        assert np.array_equal(found, checkpoint["blocks.0.ffn.up.weight"].numpy()) == same
    for wrong, message in (
        ({"gguf_variant": "int4"}, r"export\.gguf_variant \(int4\) is of method awq, but gguf_f32 is made from floats"),
        ({"gguf_variant": "none"}, r"export\.gguf_variant \(none\) must be a variant in .* \(scaled, int4\)"),
        (
            {"formats": ("awq",), "gguf_variant": "", "variant": "scaled"},
            r"variant \(scaled\) is of method scale",
        ),
    ):
        with pytest.raises(UserError, match=message):
            slm.export.run(recipe.model_copy(update={"export": section.model_copy(update=wrong)}))
