"""The stage on a real corpus and tokenizer: figures that add up, and refusals in one sentence."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import slm.corpus
import slm.shards
import slm.tokenizer
from slm.core.artifact import Artifact, Draft, Spec, make
from slm.core.errors import UserError
from slm.recipe import Recipe, build_recipe
from slm.shards.reader import ShardReader
from slm.tokenizer import Tokenizer

WORDS = [
    *[
        "def",
        "return",
        "import",
        "self",
        "None",
        "for",
        "in",
        "range",
        "yield",
        "class",
        "é",
        "世界",
        "{}",
        "==",
        "!=",
        "lambda",
    ],
    "\t",
]


def write_texts(path: Path, number: int, seed: int) -> None:
    source = random.Random(seed)
    texts = [" ".join(source.choices(WORDS, k=source.randint(5, 120))) for _ in range(number)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    for seed, name in enumerate(("code", "prose")):
        write_texts(folder / f"{name}.jsonl", 120, seed)
    recipe = recipe_in(folder)
    slm.corpus.run(recipe)
    slm.tokenizer.run(recipe)
    return folder


def recipe_in(base: Path, run: str = "one", **changes: Any) -> Recipe:
    sources = [
        {"kind": "jsonl", "name": name, "path": str(base / f"{name}.jsonl"), "licence": "CC0-1.0", "origin": "made up"}
        for name in ("code", "prose")
    ]
    values = {
        "run": run,
        "runs_dir": str(base / "runs"),
        "corpus": {"sources": sources, "validation_fraction": 0.1},
        "tokenizer": {"vocab_size": 330, "threads": 1},
        "model": {"vocab_size": 330, "max_seq_len": 64},
        "shards": {"seq_len": 64},
        "train": {"batch_tokens": 512},
    }
    return build_recipe({**values, **changes})


@pytest.fixture(scope="module")
def shards(base: Path) -> Artifact:
    return slm.shards.run(recipe_in(base))


def test_validation_rows_hold_exactly_the_held_out_texts(base: Path, shards: Artifact):
    recipe = recipe_in(base)
    tokenizer = Tokenizer.load(recipe.folder("tokenizer"))
    tokens, lengths = ShardReader(shards, "validation").rows(range(shards.counts["validation"]["rows"]))
    pairs: list[tuple[int, int]] = []
    for row, counts in zip(tokens.tolist(), lengths, strict=True):
        start = 0
        for length in counts.tolist():
            pairs += itertools.pairwise(row[start : start + length])
            start += length
    expected: list[tuple[int, int]] = []
    for document in slm.corpus.read_documents(recipe.artifact("corpus"), "validation"):
        expected += itertools.pairwise(tokenizer.encode(document.text, bos=True, eos=True))
    assert sorted(pairs) == sorted(expected)


def test_the_figures_add_up(base: Path, shards: Artifact):
    corpus, counts = recipe_in(base).artifact("corpus"), shards.counts
    for split in ("train", "validation"):
        tally = counts[split]
        assert tally["documents"] == corpus.counts[split]["documents"]
        assert tally["bytes"] == corpus.counts[split]["bytes"]
        assert tally["tokens"] == tally["targets"] + tally["documents"]
        assert tally["rows"] * 64 == tally["tokens"] + tally["fragments"] + tally["padding"]
    assert list(counts["sources"]) == ["code", "prose"]
    for name in counts["train"]:
        assert sum(source[name] for source in counts["sources"].values()) == counts["train"][name]
    assert counts["vocab_size"] == 330
    assert counts["dtype"] == "uint16"
    assert counts["tokenizer_hash"] == Tokenizer.load(recipe_in(base).folder("tokenizer")).hash


def test_a_person_sees_tokens_padding_and_overlap(base: Path, capsys: pytest.CaptureFixture[str]):
    slm.shards.run(recipe_in(base, shards={"seq_len": 32}, artifacts=elsewhere(base), run="shown"))
    printed = capsys.readouterr().out
    for word in ("documents", "tokens", "rows", "used", "padding", "split", "overlap tokens", "bytes/token"):
        assert word in printed
    assert "ids stored as uint16" in printed


def elsewhere(base: Path) -> dict[str, str]:
    first = recipe_in(base)
    return {"corpus": str(first.folder("corpus")), "tokenizer": str(first.folder("tokenizer"))}


def test_running_again_does_nothing_and_imports_nothing_heavy(base: Path, shards: Artifact):
    script = (
        "import sys; from slm.recipe import build_recipe; import slm.shards, json; "
        "made = slm.shards.run(build_recipe(json.loads(sys.argv[1]))); "
        "print(made.fingerprint, [n for n in ('torch', 'pyarrow', 'numpy', 'sentencepiece') if n in sys.modules])"
    )
    values = recipe_in(base).model_dump_json()
    done = subprocess.run([sys.executable, "-c", script, values], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"shards: up to date in {shards.path} ({shards.fingerprint[:12]})",
        f"{shards.fingerprint} []",
    ]


def test_the_same_recipe_makes_the_same_shards(base: Path, shards: Artifact):
    again = slm.shards.run(recipe_in(base, run="again", artifacts=elsewhere(base)))
    assert again.fingerprint == shards.fingerprint


def test_a_tokenizer_of_another_corpus_is_refused_unless_it_is_asked_for(base: Path):
    write_texts(base / "other.jsonl", 90, 7)
    source = {"kind": "jsonl", "path": str(base / "other.jsonl"), "licence": "CC0-1.0"}
    recipe = recipe_in(base, run="other", corpus={"sources": [source], "validation_fraction": 0.1})
    slm.corpus.run(recipe)
    recipe.folder("tokenizer").symlink_to(recipe_in(base).folder("tokenizer"))
    with pytest.raises(UserError, match=r"tokenizer\) was made from corpus \w{12}, but .* is \w{12}"):
        slm.shards.run(recipe)
    recipe.folder("tokenizer").unlink()
    taken = {"tokenizer": str(recipe_in(base).folder("tokenizer"))}
    made = slm.shards.run(recipe.model_copy(update={"artifacts": type(recipe.artifacts)(**taken)}))
    assert made.counts["sources"].keys() == {"jsonl"}


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_a_corpus_with_an_empty_part_is_refused(base: Path, missing: str):
    recipe = recipe_in(base, run=f"no-{missing}", artifacts={"tokenizer": str(recipe_in(base).folder("tokenizer"))})

    def write(draft: Draft) -> None:
        other = "train" if missing == "validation" else "validation"
        draft.counts.update({missing: {"documents": 0, "bytes": 0}, other: {"documents": 6, "bytes": 60}})

    make(recipe.folder("corpus"), Spec("corpus", recipe.corpus), write)
    with pytest.raises(UserError, match=rf"holds no {missing} documents \(of 6 in all\).*corpus.sources or change"):
        slm.shards.run(recipe)
    assert not recipe.folder("shards").exists()


def test_shards_from_elsewhere_are_taken_as_they_are(base: Path, shards: Artifact):
    assert slm.shards.run(recipe_in(base, run="x", artifacts={"shards": str(shards.path)})).path == shards.path


def made_before(base: Path) -> dict[str, str]:
    return {stage: str(base / "runs" / "one" / stage) for stage in ("corpus", "tokenizer")}


def entry(source: str, **amount: float) -> dict[str, Any]:
    return {"source": source, **amount}


@pytest.mark.parametrize(
    ("mixture", "sentence"),
    [
        ([{"sources": [entry("code", weight=0)]}], "code has weight 0 and epochs 0; give one of them, above 0"),
        ([{"sources": [entry("code", weight=1, epochs=2)]}], "code has weight 1 and epochs 2; give one of them"),
        ([{"sources": [entry("code", weight=1), entry("prose", epochs=1)]}], "stage main mixes weights and epochs"),
        ([{"sources": [entry("code", weight=1), entry("code", weight=2)]}], "stage main names a source twice"),
        ([{"sources": [entry("code", weight=1)]}, {"name": "anneal", "sources": [entry("prose", epochs=1)]}],
         "stage main has weights but no tokens, so the stages after it would never begin; say after how many tokens"),
        ([{"sources": [entry("code", weight=1)]}],
         r"shards.mixture \(code\) must name exactly the sources of the corpus \(code, prose\)"),
    ],
)  # fmt: skip
def test_a_mixture_that_makes_no_sense_is_refused(base: Path, mixture: list[dict[str, Any]], sentence: str):
    with pytest.raises(UserError, match=sentence):
        recipe_in(base, shards={"seq_len": 64, "mixture": mixture})


def test_the_stages_of_a_mixture_stand_in_the_manifest_as_yaml(base: Path, capsys: pytest.CaptureFixture[str]):
    stages = [
        {"name": "main", "tokens": 6_400, "sources": [entry("code", weight=3), entry("prose", weight=1)]},
        {"name": "anneal", "sources": [entry("prose", epochs=2)]},
    ]
    settings = {"seq_len": 64, "mixture": stages}
    made = slm.shards.run(recipe_in(base, run="staged", artifacts=made_before(base), shards=settings))
    found = yaml.safe_load(made.counts["mixture"])
    rows = {name: tally["rows"] for name, tally in made.counts["sources"].items()}
    assert [(stage["stage"], stage["first_token"]) for stage in found] == [("main", 0), ("anneal", 6_400)]
    assert found[0]["sources"]["code"] == {"share": 0.75, "epochs": round(75 / rows["code"], 4)}
    assert found[1]["sources"] == {"prose": {"share": 1.0, "epochs": 2.0}}
    assert "anneal" in capsys.readouterr().out


def test_the_command_runs_the_stage(monkeypatch: pytest.MonkeyPatch):
    from slm.shards import __main__

    called: list[object] = []
    monkeypatch.setattr(__main__, "command", lambda *arguments: called.append(arguments))
    __main__.main()
    assert called == [("shards", slm.shards.run)]
