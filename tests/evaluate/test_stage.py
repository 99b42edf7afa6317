"""The stage on a run that was really trained: made once, refused where it must be, failing on golden prompts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

import slm.corpus
import slm.evaluate
import slm.shards
from slm.core.errors import UserError


def test_running_again_does_nothing_and_imports_nothing_heavy(trained, evaluated):
    script = (
        "import sys, json; from slm.recipe import build_recipe; import slm.evaluate; "
        "made = slm.evaluate.run(build_recipe(json.loads(sys.argv[1]))); "
        "print(made.fingerprint, [n for n in ('torch', 'pyarrow', 'numpy', 'sentencepiece') if n in sys.modules])"
    )
    values = trained.model_dump_json()
    done = subprocess.run([sys.executable, "-c", script, values], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"evaluate: up to date in {evaluated.path} ({evaluated.fingerprint[:12]})",
        f"{evaluated.fingerprint} []",
    ]


def test_a_failed_golden_prompt_fails_the_stage_each_time_and_keeps_the_results(on_trained, tmp_path, monkeypatch):
    golden = tmp_path / "golden.jsonl"
    lines = [
        {"name": "fine", "prompt": "def", "continuation": " self", "max_logprob_per_token": 0},
        {"name": "shouts", "prompt": "def", "pattern": "IMPOSSIBLE", "max_tokens": 3},
        {"name": "sure", "prompt": "def", "continuation": " self", "min_logprob_per_token": 0},
    ]
    golden.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = on_trained("golden", evaluate={"golden": str(golden)})
    sentence = (
        r"2 of 3 golden prompts of .* failed \(shouts: expected a match of 'IMPOSSIBLE' in 3 greedy tokens, found '.*; "
        r"sure: expected at least 0 nats a token for ' self', found -\d.*\); the results are saved in .*redo=true"
    )
    with pytest.raises(UserError, match=sentence):
        slm.evaluate.run(recipe)
    kept = json.loads((recipe.folder("evaluate") / "results.json").read_text())
    assert (kept["golden"]["passed"], kept["golden"]["failed"]) == (1, 2)
    assert [item["name"] for item in kept["golden"]["items"]] == ["fine", "shouts", "sure"]

    monkeypatch.setattr("slm.evaluate.measure.measure", lambda *_: pytest.fail("computed again"))
    with pytest.raises(UserError, match=sentence):
        slm.evaluate.run(recipe)


def test_golden_prompts_that_pass_are_in_the_results(on_trained, tmp_path):
    golden = tmp_path / "golden.jsonl"
    golden.write_text('{"name": "fine", "prompt": "def", "continuation": " self", "max_logprob_per_token": 0}\n')
    made = slm.evaluate.run(on_trained("passing", evaluate={"golden": str(golden)}))
    item = json.loads(made.file("results.json").read_text())["golden"]["items"][0]
    assert item.keys() == {"name", "prompt", "passed", "expected", "found"}
    assert made.counts["golden_passed"] == 1
    golden.write_text('{"name": "other", "prompt": "def", "continuation": " self", "max_logprob_per_token": 0}\n')
    with pytest.raises(UserError, match=r"inputs\.golden"):
        slm.evaluate.run(on_trained("passing", evaluate={"golden": str(golden)}))


def test_a_malformed_golden_table_is_refused_before_any_work(on_trained, tmp_path, monkeypatch):
    golden = tmp_path / "golden.jsonl"
    golden.write_text("{}\n")
    monkeypatch.setattr("slm.evaluate.measure.load_model", lambda *_: pytest.fail("work began"))
    with pytest.raises(UserError, match=r"golden\.jsonl:1: name: field required"):
        slm.evaluate.run(on_trained("malformed", evaluate={"golden": str(golden)}))
    with pytest.raises(UserError, match=r"evaluate.golden \(nowhere\.jsonl\) is not a file"):
        slm.evaluate.run(on_trained("malformed", evaluate={"golden": "nowhere.jsonl"}))


def test_a_checkpoint_of_other_shards_is_refused(trained, make_recipe):
    recipe = make_recipe("othershards", shards={"seq_len": 16, "threads": 1})
    recipe.folder("corpus").parent.mkdir(parents=True)
    for stage in ("corpus", "tokenizer", "train"):
        shutil.copytree(trained.folder(stage), recipe.folder(stage))
    slm.shards.run(recipe)
    with pytest.raises(UserError, match=r"was made from shards \w{12}, but .* is \w{12}; point artifacts.shards"):
        slm.evaluate.run(recipe)


def test_another_corpus_is_scored_only_where_it_is_asked_for(on_trained, make_recipe):
    other = make_recipe("othercorpus")
    source = {**other.corpus.sources[0].model_dump(), "max_documents": 60}
    other = make_recipe("othercorpus", corpus={"sources": [source], "validation_fraction": 0.2})
    slm.corpus.run(other)
    recipe = on_trained("elsewhere")
    recipe.folder("corpus").unlink()
    recipe.folder("corpus").symlink_to(other.folder("corpus"))
    with pytest.raises(UserError, match=r"was made from corpus \w{12}"):
        slm.evaluate.run(recipe)
    taken = recipe.artifacts.model_copy(update={"corpus": str(other.folder("corpus"))})
    made = slm.evaluate.run(recipe.model_copy(update={"artifacts": taken}))
    assert made.counts["documents"] == other.artifact("corpus").counts["validation"]["documents"]


def test_the_command_runs_the_stage(monkeypatch: pytest.MonkeyPatch):
    from slm.evaluate import __main__

    called: list[object] = []
    monkeypatch.setattr(__main__, "command", lambda *arguments: called.append(arguments))
    __main__.main()
    assert called == [("evaluate", slm.evaluate.run, {"tasks": "evaluate.tasks"})]


def test_missing_checkpoints_are_named(make_recipe):
    with pytest.raises(UserError, match=r"there is no train in .*; make it with the same settings"):
        slm.evaluate.run(make_recipe("nothing"))
