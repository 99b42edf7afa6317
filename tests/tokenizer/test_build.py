"""The stage: what it writes, when it does nothing, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import slm.corpus
from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import EXIT_FAILED, DamagedError, UserError
from slm.recipe import Recipe, build_recipe
from slm.tokenizer import Tokenizer, __main__, build, run

TEXT = (
    "".join(f"the {word} of the {word}s is an {word}\n" for word in ["index", "value", "cache", "token", "piece"]) * 20
)
MANY = TEXT + "".join(f"{chr(97 + i % 26)}{chr(97 + i // 26)}{chr(97 + i * 7 % 26)} " for i in range(600)) * 3


def test_stage_writes_every_file_and_its_figures(artifact: Artifact) -> None:
    names = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "report.json"}
    assert set(artifact.manifest["files"]) == names
    assert artifact.manifest["parents"].keys() == {"corpus"}
    report = json.loads(artifact.file("report.json").read_text())
    counts = artifact.counts
    assert counts["hash"] == report["vocabulary"]["hash"]
    assert counts["vocab_size"] == 1024
    assert counts["train_bytes_per_token"] == report["splits"]["train"]["bytes_per_token"] > 2


def test_second_run_is_up_to_date_without_loading_anything_heavy(artifact: Artifact) -> None:
    program = (
        "import sys; from slm.recipe import build_recipe; from slm.tokenizer import run\n"
        f"run(build_recipe({{'run': 'r', 'runs_dir': {str(artifact.path.parents[1])!r}, "
        "'tokenizer': {'vocab_size': 1024}, 'model': {'vocab_size': 1024}}))\n"
        "assert not {'sentencepiece', 'tokenizers', 'numpy', 'torch', 'pyarrow'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tokenizer: up to date" in done.stdout


def test_same_corpus_gives_the_same_tokenizer_elsewhere(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of([MANY])
    first = run(recipe).manifest["files"]
    again = run(recipe.model_copy(update={"run": "r", "redo": True, "seed": 5})).manifest["files"]
    assert again == first


def test_tokenizer_from_elsewhere_is_taken_as_it_is(artifact: Artifact, tmp_path: Path) -> None:
    recipe = build_recipe({"runs_dir": str(tmp_path), "artifacts": {"tokenizer": str(artifact.path)}})
    assert run(recipe).fingerprint == artifact.fingerprint
    assert list(tmp_path.iterdir()) == []


def test_missing_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no corpus in .*; make it with the same settings"):
        run(build_recipe({"runs_dir": str(tmp_path)}))


def test_empty_corpus_is_refused_and_leaves_nothing(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of([])
    with pytest.raises(UserError, match=r"r/corpus holds no text to learn a vocabulary from"):
        run(recipe)
    assert [path.name for path in recipe.folder("corpus").parent.iterdir()] == ["corpus"]


def test_vocabulary_larger_than_the_text_allows_ends_the_command_with_one_sentence(
    recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = recipe_of([TEXT]).runs_dir
    overrides = ["recipe=smoke", "run=r", f"runs_dir={runs}", "tokenizer.vocab_size=5000", "model.vocab_size=5000"]
    monkeypatch.setattr(sys, "argv", ["slm", *overrides])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert ended.value.code == EXIT_FAILED
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("error: tokenizer.vocab_size (5,000) is larger than the text in ")


def test_flipped_byte_is_noticed_when_the_artifact_is_opened(recipe_of: Callable[..., Recipe]) -> None:
    artifact = run(recipe_of([MANY]))
    model = artifact.file("tokenizer.model")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(DamagedError, match=r"tokenizer\.model is damaged: its sha256 is not the one"):
        open_artifact(artifact.path, "tokenizer")


def test_sample_is_bounded_and_recorded(recipe_of: Callable[..., Recipe]) -> None:
    artifact = run(recipe_of([MANY] * 80, sample_bytes=100_000))
    assert artifact.counts["learned_from_bytes"] == 100_000
    assert artifact.counts["learned_from"] == {}
    assert Tokenizer.load(artifact.path).vocab_size == 1024


def test_memory_bounds_the_sample(recipe_of: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of([MANY] * 80, memory_bytes=500_000_000)
    monkeypatch.setattr(build, "largest_sample", lambda memory: memory // 5_000)
    artifact = run(recipe)
    assert artifact.counts["learned_from_bytes"] == 100_000


def test_sources_give_their_shares_and_the_manifest_says_how_much(recipe_of: Callable[..., Recipe]) -> None:
    recipe = recipe_of([MANY] * 80, sample_bytes=100_000)
    (name,) = recipe.artifact("corpus").counts["sources"]
    weighed = recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update={"weights": {name: 2.0}})})
    assert run(weighed).counts["learned_from"] == {name: 100_000}
    other = recipe.model_copy(update={"tokenizer": recipe.tokenizer.model_copy(update={"weights": {"books": 2.0}})})
    with pytest.raises(UserError, match=rf"tokenizer\.weights \(books\) must name exactly the sources .* \({name}\)"):
        run(other.model_copy(update={"redo": True}))


def test_without_weights_sources_give_their_shares_of_the_mixture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = []
    for name in ("code", "prose"):
        with (tmp_path / f"{name}.jsonl").open("w") as stream:
            for number in range(600):
                stream.write(json.dumps({"text": f"{name} {number} {MANY[number : number + 300]}"}) + "\n")
        sources.append({"kind": "jsonl", "name": name, "path": str(tmp_path / f"{name}.jsonl"), "licence": "MIT"})

    def learned_from(*weights: int, **tokenizer: object) -> dict[str, int]:
        stage = {"sources": [{"source": item["name"], "weight": w} for item, w in zip(sources, weights, strict=True)]}
        recipe = build_recipe(
            {
                "runs_dir": str(tmp_path / "runs"), "run": "r", "redo": True, "shards": {"mixture": [stage]},
                "corpus": {"sources": sources, "validation_fraction": 0.1, "duplicates": {"near": False}},
                "model": {"vocab_size": 330},
                "tokenizer": {"vocab_size": 330, "sample_bytes": 100_000, **tokenizer},
            }
        )  # fmt: skip
        if not recipe.folder("corpus").exists():
            slm.corpus.run(recipe)
        return dict(run(recipe).counts["learned_from"])

    assert learned_from(3, 1) == {"code": 75_000, "prose": 25_000}
    assert (
        "shares of shards.mixture, as tokenizer.weights is empty: code 75.0 %, prose 25.0 %" in capsys.readouterr().out
    )
    assert learned_from(3, 1) == {"code": 75_000, "prose": 25_000}
    assert "tokenizer: up to date" in capsys.readouterr().out
    assert learned_from(1, 1) == {"code": 50_000, "prose": 50_000}
    assert learned_from(1, 1, weights={"code": 1, "prose": 4}) == {"code": 20_000, "prose": 80_000}
