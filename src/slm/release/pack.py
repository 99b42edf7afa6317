"""What somebody needs to get the numbers of a release again: items, seeds, settings, commands.

In: the evidence. Out: the folder `reproduce/`:

    README.md                       each number, its items and seed, and the command that gives it again
    numbers.json                    the same for programs
    items.json                      ids of every item behind a number, with what each came to where it is a task's
    contamination.md                what of the evaluations stood in the text that was read
    recipes/released/config.yaml    every setting of the run; `recipe=released` in this folder means it

Texts of evaluations are in none of them, so that publishing a release contaminates nobody's corpus.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from slm.core.seeds import derive
from slm.corpus.decontamination.report import FILE as CONTAMINATION
from slm.release.evidence import Evidence, read_json

RECIPE = "released"
HERE = frozenset({"runs_dir", "redo", "start", "stop", "artifacts", "verify"})
"""Settings that say where and how far a run went, not what it made."""
PATHS = frozenset({"path", "toxicity", "baseline"})
"""Settings that name files; a hub data set's path is none that exists."""
RUNS = "../../again"
"""Beside the bundle: a file more in it, and it would no longer be what was released."""
AGAIN = f"slm pipeline recipe=released to=safety runs_dir={RUNS}"
VERIFY = f"slm verify .. corpus={RUNS}/{{run}}/corpus"


def write_pack(evidence: Evidence, folder: Path) -> None:
    """Write the folder."""
    (folder / "recipes" / RECIPE).mkdir(parents=True)
    settings = yaml.safe_dump(recipe_values(evidence), sort_keys=False, allow_unicode=True, width=110)
    (folder / "recipes" / RECIPE / "config.yaml").write_text(settings, encoding="utf-8")
    numbers = list(_numbers(evidence))
    for name, content in (("numbers.json", numbers), ("items.json", items(evidence))):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme(evidence, numbers), encoding="utf-8")
    (folder / "contamination.md").write_text(contamination(evidence), encoding="utf-8")


def recipe_values(evidence: Evidence) -> dict[str, Any]:
    """Every setting of the run that shapes a result, with the golden prompts taken from the bundle."""
    values = {name: value for name, value in evidence.recipe.resolved().items() if name not in HERE}
    values["evaluate"]["golden"] = "../evaluation/golden.jsonl"
    values["release"].pop("repository")
    return {name: located(value) for name, value in values.items()}


def located(value: Any, key: str = "") -> Any:
    """A setting with relative paths made absolute, since the recipe is no longer read where they began."""
    if isinstance(value, dict):
        return {name: located(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [located(one, key) for one in value]
    if key in PATHS and value and "://" not in value and Path(Path(value).parts[0]).exists():
        return str(Path(value).absolute())
    return value


def items(evidence: Evidence) -> dict[str, Any]:
    """The ids of every item: held-out documents, golden prompts, tasks' items, and sets of safety prompts by hash."""
    import pyarrow.parquet as pq

    evaluate = evidence.artifacts["evaluate"]
    documents = pq.read_table(evaluate.file("documents.parquet"), columns=["id"])["id"].to_pylist()
    found: dict[str, Any] = {
        "held_out_documents": documents,
        "golden_prompts": [one["name"] for one in evidence.results["golden"]["items"]],
        "safety_sets": evidence.artifacts["safety"].manifest["ingredients"]["inputs"]["sets"],
    }
    if "items.parquet" in evaluate.manifest["files"]:
        columns = ["task", "item", "metric", "value", "clean"]
        found["task_items"] = pq.read_table(evaluate.file("items.parquet"), columns=columns).to_pylist()
    return found


def _numbers(evidence: Evidence) -> list[dict[str, Any]]:
    seed, run = evidence.recipe.seed, evidence.recipe.run
    validation = evidence.results["validation"]
    again, verify = AGAIN, VERIFY.format(run=run)
    found: list[dict[str, Any]] = [
        {
            "number": "bits per byte", "value": validation["bits_per_byte"], "interval_95": validation["interval_95"],
            "items": "held_out_documents", "seed": derive(seed, "bootstrap"), "command": verify,
        },
        {
            "number": "golden prompts passed", "value": evidence.results["golden"]["passed"], "interval_95": None,
            "items": "golden_prompts", "seed": None, "command": "slm verify ..",
        },
    ]  # fmt: skip
    found += [
        _number(name, value, None, "held_out_documents", again) for name, value in evidence.results["baselines"].items()
    ]
    tasks = evidence.results.get("tasks", {}).get("metrics", ())
    measures = read_json(evidence.artifacts["safety"], "results.json")["measures"]
    return [
        *found,
        *(
            _number(f"{one['task']}: {one['metric']}", one["value"], one["interval_95"], "task_items", again, seed)
            for one in tasks
        ),
        *(
            _number(one["name"], one["value"], [one["low"], one["high"]], "safety_sets", again, seed)
            for one in measures
        ),
    ]


def _number(
    name: str, value: Any, interval: list[float] | None, of: str, command: str, seed: int | None = None
) -> dict[str, Any]:
    return {"number": name, "value": value, "interval_95": interval, "items": of, "seed": seed, "command": command}


def readme(evidence: Evidence, numbers: list[dict[str, Any]]) -> str:
    """How to get each number again, for people."""
    versions = ", ".join(
        f"{name} {version}" for name, version in evidence.artifacts["train"].manifest["versions"].items()
    )
    rows = [
        f"| {one['number']} | {_short(one['value'])} | {_range(one['interval_95'])} | {one['items']} | "
        f"{'' if one['seed'] is None else one['seed']} | `{one['command']}` |"
        for one in numbers
    ]
    tag = evidence.repository.record["tag"]
    return "\n".join(
        [
            f"# {evidence.recipe.run}: the numbers again",
            "",
            f"With slm at the tag `{tag}` (commit {evidence.repository.commit}), in this folder. `recipe=released` is "
            "`recipes/released/config.yaml`, every setting of the run, with the paths of the machine that made it.",
            "",
            "```",
            f"slm corpus recipe=released runs_dir={RUNS}     # the text; the hashes of its files are in ../lineage",
            VERIFY.format(run=evidence.recipe.run),
            f"{AGAIN}     # everything, from text to safety",
            "```",
            "",
            f"The recipe's seed is {evidence.recipe.seed}; all others are derived from it. Made with {versions}. "
            "Numbers that are measured on the published weights agree to the fourth digit on any machine; a model that "
            "is trained again is the same bit for bit on the same machine with the same versions, and close elsewhere.",
            "",
            "| number | value | 95 % interval | items in items.json | seed | command |",
            "| --- | ---: | --- | --- | ---: | --- |",
            *rows,
            "",
        ]
    )


def contamination(evidence: Evidence) -> str:
    """What a report on the figures may say of contamination, ready to be quoted."""
    report = read_json(evidence.artifacts["corpus"], CONTAMINATION)
    documents = report["documents"]
    lines = [
        "# Contamination",
        "",
        f"{documents['checked']:,} documents were compared with the items of the evaluations below by runs of "
        f"{report['ngram_words']} words (whole items from {report['min_words']} words on); {documents['dropped']:,} "
        f"were left out of the corpus and {documents['cut']:,} cut. Shorter items cannot be told from common phrases "
        "and are counted as unchecked. Figures on clean items are of those that no document held.",
        "",
        "| evaluation | items | met in documents that were read | unchecked | clean |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {one['items']:,} | {one['found']:,} | {one['unchecked']:,} | {len(one['clean_items']):,} |"
        for name, one in report["evaluations"].items()
    ]
    return "\n".join([*lines, ""])


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _range(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
