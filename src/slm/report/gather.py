"""The artifacts of a run to one typed record; nothing is formatted here.

Whatever a stage wrote is read from its files or its manifest. A stage that was not run leaves its part empty.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import MANIFEST, Artifact, file_sha256, newest
from slm.core.lineage import lineage
from slm.recipe import CHAIN, Recipe, Stage
from slm.train.ledger import read_ledger
from slm.train.metrics import read_metrics

if TYPE_CHECKING:
    from slm.evaluate.comparison import Comparison

METRICS = "metrics.jsonl"
VERSION = 2
"""To be raised when the same artifacts would give another report."""
UNSEEN = frozenset({"redo", "verify", "start", "stop", "report", "safety", "release"})
"""Parts of a recipe that change nothing that a report shows."""
DROPPED_WORDS = ("redo", "from", "to", "start", "stop", "verify")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report shows."""

    recipe: Recipe
    artifacts: Mapping[Stage, Artifact]
    steps: list[Json]
    """Rows of kind `train` of the metrics, in order."""
    noise: list[Json]
    """Rows of kind `noise` that could tell the gradient noise scale."""
    layers: list[Json]
    """Rows of kind `layers`."""
    evaluations: list[Json]
    """Rows of kind `evaluate`."""
    samples: list[Json]
    """Rows of kind `sample`."""
    troubles: list[Json] = field(default_factory=list)
    """Rows of kind `skip`, `rewind` and `evaluate_failed`; also of what a rewind took back."""
    ledger: list[Json] = field(default_factory=list)
    """The account of each process that worked on the training, in order."""
    results: Json = field(default_factory=dict)
    """`results.json` of the evaluation."""
    tokenizer: Json = field(default_factory=dict)
    """`report.json` of the tokenizer."""
    parity: Json = field(default_factory=dict)
    """`parity.json` of the export."""
    answers: Json = field(default_factory=dict)
    """`samples.json` of the serve stage."""
    safety: Json = field(default_factory=dict)
    """`results.json` of the safety stage."""
    beside: Comparison | None = None
    """This run (B) against the one that `report.compare_with` names (A)."""
    beside_name: str = ""
    """That other's name."""
    broken_links: tuple[str, ...] = ()
    """Sentences about ancestors that are gone or are no longer what was recorded."""
    stale: Mapping[Stage, str] = field(default_factory=dict)
    """Stages made from another artifact than the one of this run, with that other's kind."""


def finished_artifacts(recipe: Recipe) -> dict[Stage, Artifact]:
    """Every artifact of the run that is there, safety after the chain's; `UserError` without a checkpoint."""
    recipe.artifact("train")
    return {
        stage: recipe.artifact(stage)
        for stage in (*CHAIN, "safety")
        if stage != "report" and (newest(recipe.folder(stage)) / MANIFEST).is_file()
    }


def data_artifacts(recipe: Recipe) -> dict[Stage, Artifact]:
    """The run's corpus, and its tokenizer and shards where they are there; `UserError` without a corpus."""
    recipe.artifact("corpus")
    stages: tuple[Stage, ...] = ("corpus", "tokenizer", "shards")
    return {stage: recipe.artifact(stage) for stage in stages if (recipe.folder(stage) / MANIFEST).is_file()}


def inputs(recipe: Recipe) -> Json:
    """What a report shows beside artifacts: the recipe and the metrics."""
    metrics = metrics_file(recipe)
    resolved = recipe.resolved()
    return {
        "recipe": {name: value for name, value in resolved.items() if name not in UNSEEN},
        "metrics": file_sha256(metrics) if metrics.is_file() else "",
        "ledger": [line["process"] for line in read_ledger(metrics.parent)],
        "compare_with": _other(recipe).fingerprint if recipe.report.compare_with else "",
        "version": VERSION,
    }


def _other(recipe: Recipe) -> Artifact:
    from slm.evaluate.measurements import evaluation_of

    return evaluation_of(Path(recipe.report.compare_with))


def _compared(recipe: Recipe, artifacts: Mapping[Stage, Artifact]) -> tuple[Comparison | None, str]:
    if not recipe.report.compare_with or "evaluate" not in artifacts:
        return None, ""
    from slm.evaluate import comparison
    from slm.evaluate.measurements import name_of

    other = _other(recipe)
    found = comparison.compare(*comparison.pairs_of(other, artifacts["evaluate"]))
    return replace(found, changes=comparison.with_texts(found.changes, other)), name_of(other)


def metrics_file(recipe: Recipe) -> Path:
    """The metrics beside the run's checkpoints, also where the recipe names a single checkpoint."""
    folder = recipe.folder("train")
    return folder / METRICS if newest(folder) != folder else folder.parent / METRICS


def command(recipe: Recipe, stage: str, *settings: str) -> str:
    """The command that makes a part of this run: what was typed, without the words that only steered this time."""
    if not sys.argv[0].startswith("slm "):
        return shlex.join(["slm", stage, f"run={recipe.run}", *settings])
    words = [word.lstrip("+") for word in sys.argv[1:] if "=" in word]
    kept = [word for word in words if word.partition("=")[0] not in DROPPED_WORDS]
    return shlex.join(["slm", stage, *kept, *settings])


def gather(recipe: Recipe, artifacts: Mapping[Stage, Artifact]) -> Run:
    """Read what the artifacts hold."""
    written = read_metrics(metrics_file(recipe))
    rows = _surviving(written)
    beside, name = _compared(recipe, artifacts)
    return Run(
        recipe,
        artifacts,
        steps=[row for row in rows if row["kind"] == "train"],
        noise=[row for row in rows if row["kind"] == "noise" and "noise_scale_tokens" in row],
        layers=[row for row in rows if row["kind"] == "layers"],
        evaluations=[row for row in rows if row["kind"] == "evaluate"],
        samples=[row for row in rows if row["kind"] == "sample"],
        troubles=[row for row in written if _is_trouble(row)],
        ledger=read_ledger(metrics_file(recipe).parent),
        results=_content(artifacts.get("evaluate"), "results.json"),
        tokenizer=_content(artifacts.get("tokenizer"), "report.json"),
        parity=_content(artifacts.get("export"), "parity.json"),
        answers=_content(artifacts.get("serve"), "samples.json"),
        safety=_content(artifacts.get("safety"), "results.json"),
        beside=beside,
        beside_name=name,
        broken_links=_broken_links(artifacts),
        stale=_stale(recipe, artifacts),
    )


def gather_data(recipe: Recipe, artifacts: Mapping[Stage, Artifact]) -> Run:
    """Read what the artifacts before the training hold."""
    return Run(
        recipe,
        artifacts,
        steps=[],
        noise=[],
        layers=[],
        evaluations=[],
        samples=[],
        tokenizer=_content(artifacts.get("tokenizer"), "report.json"),
        broken_links=_broken_links(artifacts),
        stale=_stale(recipe, artifacts),
    )


def _surviving(rows: list[Json]) -> list[Json]:
    """Without what a rewind took back: the curve of a run is that of the weights it ended with."""
    kept: list[Json] = []
    for row in rows:
        if row["kind"] == "rewind":
            kept = [earlier for earlier in kept if earlier["step"] <= row["to_step"]]
        else:
            kept.append(row)
    return kept


def _is_trouble(row: Json) -> bool:
    return row["kind"] in ("skip", "rewind", "evaluate_failed")


def _content(artifact: Artifact | None, name: str) -> Json:
    if artifact is None:
        return {}
    return dict(json.loads(artifact.file(name).read_text(encoding="utf-8")))


def _broken_links(artifacts: Mapping[Stage, Artifact]) -> tuple[str, ...]:
    found = [link for artifact in artifacts.values() for _, link in lineage(artifact.path) if isinstance(link, str)]
    return tuple(dict.fromkeys(found))


def _stale(recipe: Recipe, artifacts: Mapping[Stage, Artifact]) -> dict[Stage, str]:
    """Stages whose recorded parent is not the artifact in hand; a vocabulary taken from another run is that of its own
    text, as where a base is taught to answer."""
    found: dict[Stage, str] = {}
    for stage, artifact in artifacts.items():
        if stage == "tokenizer" and recipe.artifacts.tokenizer:
            continue
        for name, recorded in artifact.manifest["parents"].items():
            for kind, parent in artifacts.items():
                if kind == name and parent.fingerprint != recorded["fingerprint"]:
                    found.setdefault(stage, name)
    return found
