"""A tiny run that may be released, made once by the real stages, and a repository that is clean and tagged."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import slm.corpus
import slm.evaluate
import slm.export
import slm.release
import slm.safety
import slm.shards
import slm.tokenizer
import slm.train
from slm.core.artifact import MANIFEST, Artifact
from slm.core.manifest import manifest_checksum
from slm.evaluate.golden import GoldenPrompt, Outcome
from slm.recipe import Recipe, build_recipe

WORDS = "def return import self None for in range yield class == != lambda pass while".split()  # noqa: SIM905
ITEM = "the quick brown fox jumps over the lazy dog while seven wizards watch from a hill"
GOLDEN = (
    {"name": "likely", "prompt": "def ", "continuation": "self", "min_logprob_per_token": -50},
    {"name": "says something", "prompt": "import ", "pattern": "", "continuation": " None", "max_logprob_per_token": 0},
    {"name": "plain", "prompt": "for ", "pattern": "^[^é]*$", "max_tokens": 6},
)
Settings = dict[str, Any]
RecipeOf = Callable[..., Recipe]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose only commit has a tag."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "recipe.yaml").write_text("run: tiny\n", encoding="utf-8")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "a recipe")
    git(folder, "tag", "v1.0")
    return folder


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The recipe of the tiny run, and the run itself in `runs_dir`."""
    base, source = tmp_path_factory.mktemp("release"), random.Random(5)
    texts = [" ".join(source.choices(WORDS, k=source.randint(40, 120))) for _ in range(100)]
    texts.append(f"{ITEM} and more that nobody counts")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (base / "code.jsonl").write_text(lines, encoding="utf-8")
    others = [f"{ITEM.replace('fox', f'fox of number {number}')}" for number in range(20)]
    (base / "items.txt").write_text("\n".join([ITEM, *others]), encoding="utf-8")
    golden = "".join(json.dumps({k: v for k, v in line.items() if v != ""}) + "\n" for line in GOLDEN)
    (base / "golden.jsonl").write_text(golden, encoding="utf-8")
    values: Settings = {
        "run": "tiny",
        "runs_dir": str(base / "runs"),
        "corpus": {
            "sources": [
                {"kind": "jsonl", "name": "code", "path": str(base / "code.jsonl"), "licence": "MIT"},
            ],
            "validation_fraction": 0.1,
            "decontamination": {"against": [{"name": "foxes", "path": str(base / "items.txt")}]},
        },
        "tokenizer": {"vocab_size": 330, "threads": 1},
        "shards": {"seq_len": 32, "threads": 1},
        "model": {
            "vocab_size": 330, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64,
            "max_seq_len": 64,
        },
        "train": {
            "tokens": 8 * 256, "batch_tokens": 256, "micro_batch_rows": 4, "evaluate_every_steps": 0,
            "save_every_steps": 100, "precision": "fp32", "threads": 1, "evaluate_rows": 4,
        },
        "evaluate": {"golden": str(base / "golden.jsonl")},
        "safety": {"threads": 1, "leak_secrets": 0, "max_tokens": 4, "max_personal": 0.9},
        "export": {"threads": 1, "formats": ["hf", "gguf_f32"], "prompts": ["def self"], "greedy_tokens": 4},
        "release": {
            "licence": "Apache-2.0", "quality": [{"figure": "validation.bits_per_byte", "at_most": 8.0}],
        },
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slm.core.artifact.git_commit", lambda: "c" * 40)
        recipe = build_recipe(values)
        for stage in (slm.corpus, slm.tokenizer, slm.shards, slm.train, slm.evaluate, slm.export, slm.safety):
            stage.run(recipe)
    return values


@pytest.fixture
def recipe_of(settings: Settings, repository: Path, tmp_path: Path) -> RecipeOf:
    """Recipes over a copy of the tiny run; keywords replace settings of `release`, sections by their name."""
    runs = tmp_path / "runs"
    shutil.copytree(settings["runs_dir"], runs)

    def make(sections: Settings | None = None, **release: Any) -> Recipe:
        values = {**settings, "runs_dir": str(runs), **(sections or {})}
        chosen = {"repository": str(repository), "formats": ["hf"]}
        return build_recipe({**values, "release": {**values["release"], **chosen, **release}})

    return make


@pytest.fixture
def agreeing_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not opened, which takes a second each: every golden prompt passes."""

    def agree(
        _folder: Path, _name: str, _tokenizer: object, prompts: list[GoldenPrompt], _threads: int
    ) -> list[Outcome]:
        return [Outcome(item.name, item.prompt, True, item.expected, "") for item in prompts]

    monkeypatch.setattr("slm.release.golden.check_file", agree)


@pytest.fixture(scope="session")
def bundle(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A bundle of both formats; its tests only read it."""
    base = tmp_path_factory.mktemp("bundle")
    git(base, "init", "-q")
    git(base, "commit", "-q", "--allow-empty", "-m", "nothing")
    git(base, "tag", "v1.0")
    runs = base / ".git" / "runs"  # where nothing is uncommitted
    shutil.copytree(settings["runs_dir"], runs)
    release = {**settings["release"], "repository": str(base)}
    return slm.release.run(build_recipe({**settings, "runs_dir": str(runs), "release": release}))


def reseal(folder: Path, **entries: Any) -> None:
    """Change entries of a manifest as somebody would who knows how its checksum is made."""
    file = folder / MANIFEST
    manifest = {**json.loads(file.read_text(encoding="utf-8")), **entries}
    manifest["checksum"] = manifest_checksum(manifest)
    file.write_text(json.dumps(manifest), encoding="utf-8")
