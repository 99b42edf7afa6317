"""A small corpus, tokenizer and shards, made once by the real stages."""

from __future__ import annotations

import itertools
import json
import keyword
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import slm.compress
import slm.corpus
import slm.shards
import slm.tokenizer
import slm.train
from slm.compress.config import CompressConfig
from slm.core.batch import Batch
from slm.recipe import Recipe, build_recipe
from slm.train import loop
from tests.train import readings

MakeRecipe = Callable[..., Recipe]
KilledAt = Callable[[dict[str, Any]], int]


def settings(base: Path, run: str) -> dict[str, Any]:
    return {
        "run": run,
        "runs_dir": str(base / "runs"),
        "corpus": {
            "sources": [{"kind": "jsonl", "path": str(base / "text.jsonl"), "licence": "CC0-1.0", "origin": "made up"}],
            "validation_fraction": 0.1,
        },
        "tokenizer": {"vocab_size": 400, "threads": 1},
        "shards": {"seq_len": 32},
        "model": {
            "vocab_size": 400, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64,
            "max_seq_len": 64,
        },
        "train": {
            "tokens": 12 * 256, "batch_tokens": 256, "micro_batch_rows": 4, "evaluate_every_steps": 5,
            "save_every_steps": 4, "log_every_steps": 1, "evaluate_rows": 8, "precision": "fp32", "threads": 1,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs/data holds corpus, tokenizer and shards."""
    base = tmp_path_factory.mktemp("prepared")
    words = list(keyword.kwlist) + dir(str)
    source = random.Random(0)
    with (base / "text.jsonl").open("w") as stream:
        for _ in range(160):
            lines = [" ".join(source.choices(words, k=source.randint(3, 9))) for _ in range(source.randint(2, 12))]
            stream.write(json.dumps({"text": "\n".join(lines) + "\n"}) + "\n")
    recipe = build_recipe(settings(base, "data"))
    slm.corpus.run(recipe)
    slm.tokenizer.run(recipe)
    slm.shards.run(recipe)
    return base


@pytest.fixture(scope="module")
def make_recipe(prepared: Path, request: pytest.FixtureRequest) -> MakeRecipe:
    """`make_recipe("name", tokens=512, ...)`: a recipe that trains on the prepared shards.

    Each module has a folder of runs of its own, so that two modules may give two runs one name."""

    def make(run: str, runs_dir: str = "", **train: object) -> Recipe:
        values = settings(prepared, run)
        values["runs_dir"] = runs_dir or str(prepared / request.module.__name__)
        values["train"].update(train)
        values["artifacts"] = {
            stage: str(prepared / "runs/data" / stage) for stage in ("corpus", "tokenizer", "shards")
        }
        return build_recipe(values)

    return make


@pytest.fixture(scope="module")
def unbroken(make_recipe: MakeRecipe) -> Recipe:
    """A run that nothing happened to."""
    recipe = make_recipe("unbroken")
    slm.train.run(recipe)
    return recipe


@pytest.fixture(scope="module")
def pruned(make_recipe: MakeRecipe) -> Path:
    """The folder of a 2:4 variant of a trained run; beside it lies one of integers, `int4`."""
    recipe = make_recipe("dense", tokens=6 * 256, evaluate_every_steps=0)
    slm.train.run(recipe)
    common = {"method": "sparse", "prune_by": "magnitude", "group_size": 32, "max_kl": 9}
    variants = [{"name": "s24", "bits": 32, "outside_bits": 32, **common}, {"name": "int4", **common}]
    compress = CompressConfig.model_validate({"variants": variants, "positions": 16, "max_documents": 2})
    return slm.compress.run(recipe.model_copy(update={"compress": compress})).path / "s24"


@pytest.fixture(scope="session")
def figures() -> Callable[[Recipe], list[dict[str, Any]]]:
    """`figures(recipe)`, see `readings`."""
    return readings.figures


@pytest.fixture(scope="session")
def hashes() -> Callable[[Recipe], dict[str, str]]:
    """`hashes(recipe)`, see `readings`."""
    return readings.hashes


@pytest.fixture(scope="session")
def killed_at() -> Iterator[KilledAt]:
    """The exit status of a training that `killed_at.py` starts, by its order."""
    words = [sys.executable, str(Path(__file__).with_name("killed_at.py"))]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def carry_out(order: dict[str, Any]) -> int:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield carry_out


@pytest.fixture
def train_until_killed(tmp_path: Path, killed_at: KilledAt) -> Callable[[Recipe, str, int], None]:
    """`train_until_killed(recipe, "write", 2)`: a real process that kills itself at a point, the second time there."""

    def train(recipe: Recipe, point: str, number: int) -> None:
        file, said = tmp_path / "recipe.json", tmp_path / "said.txt"
        file.write_text(recipe.model_dump_json())
        order = {"recipe": str(file), "point": point, "number": number, "said": str(said)}
        status = killed_at({**order, "environment": dict(os.environ)})
        assert status == -signal.SIGKILL, said.read_text()

    return train


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[Batch]]:
    """The batches of each step that is trained on from now on."""
    seen: list[list[Batch]] = []
    honest = loop.forward_backward

    def watching(run: Any, batches: list[Batch], *rest: Any) -> Any:
        seen.append(batches)
        return honest(run, batches, *rest)

    monkeypatch.setattr(loop, "forward_backward", watching)
    return seen


@pytest.fixture
def train_until_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, int], None]:
    """`train_until_step(recipe, 5)`: training that an interrupt ends in the step after that one."""

    def train(recipe: Recipe, step: int) -> None:
        honest = loop.forward_backward

        def interrupted(run: Any, *rest: Any) -> Any:
            if run.state.step == step:
                raise KeyboardInterrupt
            return honest(run, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "forward_backward", interrupted)
            with pytest.raises(KeyboardInterrupt):
                slm.train.run(recipe)

    return train


@pytest.fixture
def train_dying_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`train_dying_in(recipe, 6, 9)`: training to its end that fails in the 6th step and, gone on, in the 9th.

    Steps are counted over all starts, and those that are done again count again."""

    def train(recipe: Recipe, *deaths: int) -> None:
        honest, steps = loop.forward_backward, itertools.count(1)

        def dying(*arguments: Any) -> Any:
            if next(steps) in deaths:
                raise RuntimeError
            return honest(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "forward_backward", dying)
            for _ in deaths:
                with pytest.raises(RuntimeError):
                    slm.train.run(recipe)
            slm.train.run(recipe)

    return train


@pytest.fixture
def train_on_full_disk(tmp_path: Path) -> Callable[[Recipe], None]:
    """`train_on_full_disk(recipe)`: a real process that ends in the sentence about the disk, its last save whole."""

    def train(recipe: Recipe) -> None:
        program = (
            "import sys, pathlib\n"
            "import slm.train\n"
            "from slm.compose import guarded\n"
            "from slm.recipe import Recipe\n"
            "recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
            "guarded(lambda: slm.train.run(recipe))\n"
        )
        file = tmp_path / "recipe.json"
        file.write_text(recipe.model_dump_json())
        done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "error: the disk filled up while writing" in done.stderr
        assert "Traceback" not in done.stderr
        assert recipe.artifact("train").counts["step"] == 8

    return train
