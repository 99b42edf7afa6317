from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.report import run
from tests.report.conftest import SAFETY, publish

Make = Callable[..., dict[str, Artifact]]
ALL = ("evaluate", "export", "serve")
VOID = {"meta", "br", "img", "hr", "input", "link"}


def page_of(recipe: Recipe) -> str:
    return run(recipe).file("report.html").read_text(encoding="utf-8")


def test_without_a_checkpoint_there_is_no_report(recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"there is no train in .*; make it with the same settings"):
        run(recipe)


def test_a_second_run_does_nothing_and_a_change_makes_it_again(
    recipe: Recipe, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(recipe)
    first = run(recipe)
    capsys.readouterr()
    assert run(recipe.model_copy(update={"redo": True, "stop": "train"})).fingerprint == first.fingerprint
    assert "report: up to date in" in capsys.readouterr().out
    with (recipe.folder("train") / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"kind": "sample", "step": 600, "tokens": 1, "prompt": "p", "text": "added"}) + "\n")
    assert "added" in page_of(recipe)


def test_a_safety_stage_that_ran_later_makes_it_again(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe)
    assert "BROKEN" not in page_of(recipe)
    parents = {name: made[name] for name in ("train", "corpus")}
    publish(recipe, "safety", parents, {"results.json": json.dumps(SAFETY)})
    assert "BROKEN" in page_of(recipe)
    assert "safety" in run(recipe).manifest["parents"]


def test_the_title_is_the_runs_name_unless_given(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    assert "<h1>synthetic</h1>" in page_of(recipe)
    titled = recipe.model_copy(update={"report": recipe.report.model_copy(update={"title": "A <small> model"})})
    assert "<h1>A &lt;small&gt; model</h1>" in page_of(titled)


def test_an_up_to_date_report_loads_nothing_heavy(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    run(recipe)
    code = (
        "import json, sys; from slm.recipe import build_recipe; from slm.report import run\n"
        "import slm.report.__main__\n"
        "run(build_recipe(json.loads(sys.argv[1])))\n"
        "print({'torch', 'matplotlib', 'jinja2', 'numpy'} & set(sys.modules))"
    )
    settings: dict[str, Any] = recipe.resolved()
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(settings)], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "up to date" in done.stdout
    assert done.stdout.strip().endswith("set()")


def test_the_command_line_makes_a_report(recipe: Recipe, make_run: Make, tmp_path: Path) -> None:
    make_run(recipe, *ALL)
    arguments = [f"runs_dir={recipe.runs_dir}", "run=synthetic", f"train.tokens={recipe.train.tokens}"]
    arguments += [f"train.batch_tokens={recipe.train.batch_tokens}", "redo=true"]
    subprocess.run([sys.executable, "-m", "slm.report", *arguments], check=True, cwd=tmp_path, capture_output=True)
    page = html.unescape((recipe.folder("report") / "report.html").read_text(encoding="utf-8"))
    kept = [argument for argument in arguments if argument != "redo=true"]
    assert f"slm pipeline {' '.join(kept)}" in page
