"""Numbers of a run that was really trained follow their definitions; settings that do not fit are refused."""

from __future__ import annotations

import gzip
import json
import lzma
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

import slm.corpus
import slm.evaluate
import slm.shards
from slm.core.artifact import Spec, make
from slm.core.errors import UserError
from slm.corpus.decontamination.benchmarks import Item
from slm.corpus.decontamination.config import GOLDEN, DecontaminationConfig
from slm.corpus.decontamination.index import Index
from slm.corpus.decontamination.report import Findings, write_report
from slm.evaluate.golden import Outcome
from slm.evaluate.measure import _groups, _interval, clean_subset
from slm.evaluate.score import score
from slm.model.load import load_model
from slm.recipe import Recipe

LN2 = math.log(2)


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
    columns = ["id", "source", "domain", "language", "bytes", "tokens", "rare_token_rate", "nats"]
    assert table.column_names == [*columns, "bits_per_byte", "gzip_bits_per_byte"]
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
    low, high = sources["code"]["interval_95"]
    assert low < expected < high


def test_of_one_document_there_is_no_interval():
    columns = {"domain": ["a", "b", "b"], "bytes": [10, 20, 30], "nats": [9.0, 8.0, 7.0], "gzip_bytes": [9, 9, 9]}
    groups = _groups(columns, "domain", 0)
    assert groups["a"]["interval_95"] is None
    assert _interval(groups["a"]).endswith("(one document)")
    assert _interval(groups["b"]).endswith("]")


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


def texts(recipe: Recipe) -> list[str]:
    return [document.text for document in slm.corpus.read_documents(recipe.artifact("corpus"), "validation")]


def test_golden_prompts_that_the_corpus_held_are_left_out_of_the_clean_subset(tmp_path):
    ids = ["held", "clean", "failed", "short"]
    texts = [" ".join(f"{name}{number}" for number in range(13)) for name in ids[:3]]
    index = Index(
        [(GOLDEN, [Item(*one) for one in zip(ids, [(text,) for text in [*texts, "short"]], strict=True)])], 13, 8
    )
    found = Findings()
    found.add(GOLDEN, "held", "document", 0, "text")

    def build(draft, with_report):
        (draft.path / "text").write_text("")
        if with_report:
            write_report(draft.path, index, found)

    outcomes = [Outcome(name, "", name != "failed", "", "") for name in ids]
    spec = Spec("corpus", DecontaminationConfig())
    corpus = make(tmp_path / "with", spec, lambda draft: build(draft, True))
    assert clean_subset(corpus, outcomes) == {"passed": 1, "failed": 1}
    unchecked = make(tmp_path / "without", spec, lambda draft: build(draft, False))
    assert clean_subset(unchecked, outcomes) is None


def test_calibration_of_the_next_token_is_in_the_results(results):
    found = results["calibration"]["next token"]
    assert found["fitted_on"] + found["judged_on"] == results["validation"]["tokens"]
    assert found["stated"]["nats"] == pytest.approx(results["validation"]["nats_per_token"], rel=0.05)
    assert 0 < found["stated"]["confidence"] < 1
    assert found["scaled"]["nats"] < found["stated"]["nats"] + 0.01


def test_one_document_has_no_calibration(on_trained):
    made = slm.evaluate.run(on_trained("single", evaluate={"max_documents": 1}))
    assert json.loads(made.file("results.json").read_text())["calibration"] == {}


def test_the_held_out_documents_of_one_source_are_scored_alone(on_trained, results):
    made = slm.evaluate.run(on_trained("prose", evaluate={"sources": ("prose",)}))
    found = json.loads(made.file("results.json").read_text())
    assert found["validation"]["documents"] == results["sources"]["prose"]["documents"]
    assert found["validation"]["bits_per_byte"] == pytest.approx(results["sources"]["prose"]["bits_per_byte"])
    few = slm.evaluate.run(on_trained("some", evaluate={"sources": ("prose",), "max_documents": 3}))
    assert few.counts["documents"] == 3


def test_a_source_that_the_corpus_does_not_have_cannot_be_scored(on_trained):
    with pytest.raises(UserError, match=r"evaluate.sources \(verse\) must name sources of .* \(code, prose\)"):
        slm.evaluate.run(on_trained("verse", evaluate={"sources": ("verse",)}))
