"""`python -m slm.pipeline recipe=NAME [from=STAGE] [to=STAGE]`: the stages in order.

A stage whose artifact already matches the recipe is skipped, in one line that says so.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import time
from pathlib import Path

from slm.compose import command
from slm.core.artifact import Artifact
from slm.core.console import duration, say, size
from slm.core.distributed import launched
from slm.core.errors import UserError
from slm.core.flavours import CHECKPOINT, flavours, show
from slm.core.model_files import gguf_models
from slm.pick import pick
from slm.recipe import STAGES, Recipe, Stage


def run(recipe: Recipe) -> dict[Stage, Artifact]:
    """Run the recipe's stages from `recipe.start` to `recipe.stop`; returns their artifacts."""
    began = time.perf_counter()
    chosen = STAGES[STAGES.index(recipe.start) : STAGES.index(recipe.stop) + 1]
    processes = launched().size
    if processes > 1 and chosen != ("train",):
        raise UserError(
            f"the pipeline was started as {processes} processes, which would all make the same files; give several "
            "processes to training alone (torchrun ... -m slm.train) and run the other stages with one"
        )
    for stage, part in (
        ("corpus", recipe.corpus.part), ("shards", recipe.shards.part), ("distill", recipe.distill.part),
    ):  # fmt: skip
        if part:
            raise UserError(
                f"{stage}.part ({part}) makes a part of the {stage} stage alone; run it as slm {stage}, and the "
                "pipeline without it once all parts are there"
            )
    artifacts: dict[Stage, Artifact] = {}
    for number, stage in enumerate(chosen, 1):
        if getattr(recipe.artifacts, stage, ""):
            artifacts[stage] = recipe.artifact(stage)
            say(f"{stage}: taken from {artifacts[stage].path}")
            continue
        say(f"[{number}/{len(chosen)}] {stage}")
        if stage == "compress" and not recipe.compress.variants:
            say("compress: compress.variants is empty, nothing to make")
            continue
        if stage == "distill" and not recipe.objective.reads_store:
            say("distill: the objective reads no store of a teacher, nothing to make")
            continue
        try:
            artifacts[stage] = importlib.import_module(f"slm.{stage}").run(recipe)
        finally:
            if stage == "safety" and "report" in artifacts:  # it shows what safety found, a broken bound too
                artifacts["report"] = importlib.import_module("slm.report").run(recipe)
    say(f"pipeline: {', '.join(chosen)} in {duration(time.perf_counter() - began)}")
    for line in whereabouts(recipe):
        say(line)
    if "export" in artifacts and CHECKPOINT in artifacts["export"].counts:
        show(flavours([recipe.folder("export").parent]))
        pick([str(recipe.folder("export").parent)])
    return artifacts


def whereabouts(recipe: Recipe) -> list[str]:
    """Where the results of a run lie and how to talk to the model; only what exists."""
    lines = []
    checkpoint = recipe.folder("train") / "latest"
    if checkpoint.is_file():
        lines.append(f"  checkpoint  {checkpoint.parent / checkpoint.read_text(encoding='utf-8').strip()}")
    export = recipe.folder("export")
    ggufs = gguf_models(export)
    lines += [f"  gguf        {path} ({size(num_bytes)})" for path, num_bytes in ggufs]
    report = recipe.folder("report") / "report.html"
    if report.is_file():
        lines.append(f"  report      {report}")
    if ggufs:
        lines.append(f"  chat        {console_command()} chat serve.model={ggufs[0][0]}")
        lines.append(f"  lineage     {console_command()} lineage {ggufs[0][0]}")
    return lines


def console_command() -> str:
    """`slm` as it can be typed here: by name where it is on the PATH, else by its path in this environment."""
    if shutil.which("slm"):
        return "slm"
    beside = Path(sys.executable).with_name("slm")
    here = Path.cwd()
    return str(beside.relative_to(here)) if here != here.parent and beside.is_relative_to(here) else str(beside)


def main() -> None:
    """Run a recipe's chain of stages."""
    command("pipeline", run)


if __name__ == "__main__":
    main()
