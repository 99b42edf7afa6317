"""The stage on a run that was really trained: numbers that follow their definitions, and refusals."""

from __future__ import annotations

import gzip
import json
import lzma
import math
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import slm.corpus
import slm.evaluate
from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.evaluate.score import score
from slm.model.load import load_model
from slm.recipe import Recipe

LN2 = math.log(2)


@pytest.fixture(scope="module")
def evaluated(trained: Recipe) -> Artifact:
    return slm.evaluate.run(trained)


@pytest.fixture
def results(evaluated: Artifact) -> dict[str, Any]:
    return json.loads(evaluated.file("results.json").read_text())


@pytest.fixture
def on_trained(trained: Recipe, make_recipe):
    """Recipes that evaluate the trained run into a folder of their own."""

    def recipe(run: str, **changes: Any) -> Recipe:
        names = ("tokenizer", "shards", "train")
        made = make_recipe(run, artifacts={name: str(trained.folder(name)) for name in names}, **changes)
        made.folder("corpus").parent.mkdir(parents=True, exist_ok=True)
        if not made.folder("corpus").exists():
            made.folder("corpus").symlink_to(trained.folder("corpus"))
        return made

    return recipe


def texts(recipe: Recipe) -> list[str]:
    return [document.text for document in slm.corpus.read_documents(recipe.artifact("corpus"), "validation")]


def test_bits_per_byte_are_total_nats_over_ln2_and_bytes(trained, results, tokenizer):
    held_out = texts(trained)
    ids = [np.array(tokenizer.encode(text, bos=True, eos=True), dtype=np.int32) for text in held_out]
    model = load_model(trained.artifact("train").path)
    nats = sum(score(model, [one], context=32, stride=16, batch_tokens=32)[0] for one in ids)
    num_bytes = sum(len(text.encode()) for text in held_out)
    found = results["validation"]
    assert found["bits_per_byte"] == pytest.approx(nats / LN2 / num_bytes, rel=1e-5)
    assert found["tokens"] == sum(len(one) - 1 for one in ids)
    assert found["nats_per_token"] == pytest.approx(nats / found["tokens"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / found["tokens"]), rel=1e-4)
    assert (found["documents"], found["bytes"]) == (len(held_out), num_bytes)
    assert (found["context_tokens"], found["stride_tokens"], found["precision"]) == (32, 16, "fp32")
    assert found["interval_95"][0] < found["bits_per_byte"] < found["interval_95"][1]


def test_baselines_are_of_the_same_documents(trained, results, tokenizer):
    held_out = [text.encode() for text in texts(trained)]
    num_bytes = sum(map(len, held_out))
    baselines = results["baselines"]
    alone = sum(len(gzip.compress(text, 9, mtime=0)) for text in held_out)
    assert baselines["gzip_bits_per_byte"] == pytest.approx(8 * alone / num_bytes)
    together = len(lzma.compress(b"".join(held_out), preset=9))
    assert baselines["xz_bits_per_byte"] == pytest.approx(8 * together / num_bytes)
    train = [document.text for document in slm.corpus.read_documents(trained.artifact("corpus"), "train")]
    counts = [1] * 330
    for text in train:
        for token in tokenizer.encode(text, eos=True):
            counts[token] += 1
    nats = sum(math.log(sum(counts) / counts[t]) for text in texts(trained) for t in tokenizer.encode(text, eos=True))
    assert baselines["unigram_bits_per_byte"] == pytest.approx(nats / LN2 / num_bytes)


def test_the_table_of_documents_adds_up_to_the_results(evaluated, results):
    table = pq.read_table(evaluated.file("documents.parquet"))
    columns = ["id", "source", "domain", "bytes", "tokens", "nats", "bits_per_byte", "gzip_bits_per_byte"]
    assert table.column_names == columns
    rows = table.to_pylist()
    assert len({row["id"] for row in rows}) == len(rows) == results["validation"]["documents"]
    total = sum(row["nats"] for row in rows) / LN2 / sum(row["bytes"] for row in rows)
    assert total == pytest.approx(results["validation"]["bits_per_byte"])
    assert all(row["bits_per_byte"] == pytest.approx(row["nats"] / LN2 / row["bytes"]) for row in rows)
    sources = results["sources"]
    assert sources.keys() == {"code", "prose"}
    assert sum(source["bytes"] for source in sources.values()) == results["validation"]["bytes"]
    code = [row for row in rows if row["source"] == "code"]
    expected = sum(row["nats"] for row in code) / LN2 / sum(row["bytes"] for row in code)
    assert sources["code"]["bits_per_byte"] == pytest.approx(expected)


def test_a_trained_model_beats_a_guess_among_all_tokens(results):
    validation = results["validation"]
    assert validation["nats_per_token"] < 0.8 * math.log(330)


def test_a_person_sees_the_model_beside_its_baselines(on_trained, capsys):
    slm.evaluate.run(on_trained("shown"))
    printed = capsys.readouterr().out
    for words in ("model", "95 % interval", "xz -9", "gzip -9", "unigram", "code", "prose", "perplexity"):
        assert words in printed


def test_fewer_documents_are_taken_at_even_distances(on_trained, results):
    made = slm.evaluate.run(on_trained("few", evaluate={"max_documents": 5, "context_tokens": 64, "stride_tokens": 64}))
    rows = pq.read_table(made.file("documents.parquet")).to_pylist()
    every = texts(on_trained("few"))
    assert len(rows) == 5 < len(every)
    assert {row["source"] for row in rows} == {"code", "prose"}
    assert made.counts["context_tokens"] == made.counts["stride_tokens"] == 64
    assert made.counts["gzip_bits_per_byte"] != results["baselines"]["gzip_bits_per_byte"]


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


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"context_tokens": 65}, r"context_tokens \(65\) must not exceed the checkpoint's max_seq_len \(64\); lower"),
        (
            {"context_tokens": 16, "stride_tokens": 17},
            r"evaluate.stride_tokens \(17\) must not exceed the window \(16\)",
        ),
        ({"device": "cuda"}, "evaluate.device is cuda, but torch sees no GPU here; set evaluate.device=cpu or auto"),
    ],
)
def test_settings_that_do_not_fit_the_checkpoint_are_refused(on_trained, monkeypatch, evaluate, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    recipe = on_trained("unfit")
    section = recipe.evaluate.model_copy(update=evaluate)
    with pytest.raises(UserError, match=message):
        slm.evaluate.run(recipe.model_copy(update={"evaluate": section}))
    assert not recipe.folder("evaluate").exists()


def test_an_unfinished_run_is_scored_and_said_to_be_one(on_trained, trained, capsys, monkeypatch):
    artifact = trained.artifact("train")
    artifact.manifest["counts"]["finished"] = False
    real = Recipe.artifact
    monkeypatch.setattr(Recipe, "artifact", lambda self, stage: artifact if stage == "train" else real(self, stage))
    slm.evaluate.run(on_trained("unfinished", evaluate={"max_documents": 2, "threads": 1}))
    assert "is a checkpoint of a run that has not finished" in capsys.readouterr().out


def test_documents_are_scored_in_blocks_with_the_same_result(on_trained, results, monkeypatch):
    monkeypatch.setattr("slm.evaluate.measure.BLOCK_TOKENS", 150)
    made = slm.evaluate.run(on_trained("blocks"))
    for name in ("bits_per_byte", "tokens", "documents"):
        assert made.counts[name] == pytest.approx(results["validation"][name], rel=1e-6)


def test_a_tokenizer_of_another_size_is_refused(on_trained, model, monkeypatch):
    import slm.model.transformer

    larger = slm.model.transformer.build(model.config.model_copy(update={"vocab_size": 400}), 0)
    monkeypatch.setattr("slm.evaluate.measure.load_model", lambda _: larger)
    with pytest.raises(UserError, match=r"has a vocabulary of 400, its tokenizer one of 330; point artifacts"):
        slm.evaluate.run(on_trained("vocabulary"))


def test_a_corpus_without_held_out_documents_is_refused(on_trained, monkeypatch):
    monkeypatch.setattr("slm.evaluate.measure.read_documents", lambda *_: iter([]))
    with pytest.raises(UserError, match=r"holds no held-out documents; raise corpus.validation_fraction"):
        slm.evaluate.run(on_trained("empty"))


def test_the_command_runs_the_stage(monkeypatch: pytest.MonkeyPatch):
    from slm.evaluate import __main__

    called: list[object] = []
    monkeypatch.setattr(__main__, "command", lambda *arguments: called.append(arguments))
    __main__.main()
    assert called == [("evaluate", slm.evaluate.run)]


def test_missing_checkpoints_are_named(make_recipe):
    with pytest.raises(UserError, match=r"there is no train in .*; make it first"):
        slm.evaluate.run(make_recipe("nothing"))
