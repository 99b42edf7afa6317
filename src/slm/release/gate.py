"""The gate: every reason not to publish a run, in one list.

In: what `evidence.collect` opened. Out: a `Check` for each rule, held or failed; nothing is written. Lineage must be
whole back to the text with every byte as it was recorded, made from committed source; the files that leave must pass
the golden prompts in the engines that open them; figures must keep their budgets, those of safety theirs; licences must
be known and allowed; evaluations must have been looked for in the text; the source must be committed and tagged.

Cost: all ancestors are hashed (about 1 s per 2 GB), and each format is opened once. What it does not judge: whether
a budget is a sensible one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact, file_sha256, open_artifact
from slm.core.console import size
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.corpus.decontamination.config import GOLDEN
from slm.corpus.decontamination.report import FILE as CONTAMINATION
from slm.release.check import Check, failed, held
from slm.release.evidence import JUDGED, Evidence, read_json
from slm.release.licences import canonical, is_allowed
from slm.safety.config import BOUNDS

if TYPE_CHECKING:
    from slm.evaluate.statistics.paired import Difference

MAKE_AGAIN = "make it again from what is there (redo=true)"


def judge(evidence: Evidence) -> list[Check]:
    """Every check that can be made with what is there."""
    checks = list(evidence.missing)
    for needs, rule in RULES:
        if needs <= evidence.artifacts.keys():
            checks += rule(evidence)
    return list(dict.fromkeys(checks))


def lineage_is_whole(evidence: Evidence) -> Iterator[Check]:
    """Every parent is there, is the recorded one, and has the bytes that were recorded, back to the text."""
    broken = []
    for chain in evidence.chains.values():
        links = [chain] if isinstance(chain, UserError) else [link for _, link in chain]
        for link in links:
            if isinstance(link, Artifact):
                continue
            damaged = isinstance(link, UserError) or ": damaged (" in link
            broken.append(failed("hashes" if damaged else "lineage", str(link), MAKE_AGAIN))
    yield from broken
    kinds = {artifact.kind for artifact in evidence.ancestors}
    if not broken and "corpus" not in kinds:
        yield failed("lineage", f"it ends at {', '.join(sorted(kinds))}, not at a corpus", MAKE_AGAIN)
    elif not broken:
        total = sum(file["size_bytes"] for one in evidence.ancestors for file in one.manifest["files"].values())
        yield held("lineage", f"{len(evidence.ancestors)} artifacts, each made from the next, back to the text")
        yield held("hashes", f"{size(total)} hashed, all as recorded")


def one_checkpoint(evidence: Evidence) -> Iterator[Check]:
    """What was measured is what was exported."""
    made = {stage: evidence.artifacts[stage].manifest["parents"]["train"]["fingerprint"] for stage in JUDGED}
    own = evidence.artifacts["train"].fingerprint
    others = [f"{stage} of {found[:12]}" for stage, found in made.items() if found != own]
    if others:
        yield failed(
            "checkpoint", f"the newest checkpoint is {own[:12]}, but {' and '.join(others)}", "run those stages again"
        )
    elif not evidence.artifacts["train"].counts.get("finished", True):
        yield failed("checkpoint", "its training has not ended", "let slm train finish")
    else:
        yield held("checkpoint", f"{own[:12]} was measured, tried and exported")


def committed(evidence: Evidence) -> Iterator[Check]:
    """Every ancestor was made by source that is in a repository."""
    loose = [
        f"{one.kind} ({one.manifest['git_commit'][-16:]})"
        for one in evidence.ancestors
        if one.manifest["git_commit"] == "unknown" or one.manifest["git_commit"].endswith("-dirty")
    ]
    if loose:
        yield failed(
            "source of the artifacts",
            f"{', '.join(loose)} were made by source that was not committed",
            "commit, and make the run again from a clean checkout",
        )
    else:
        commits = sorted({str(one.manifest["git_commit"])[:12] for one in evidence.ancestors})
        yield held("source of the artifacts", f"committed ({', '.join(commits)})")


def parity_holds(evidence: Evidence) -> Iterator[Check]:
    """Each format is in the export, with a proof within its budget."""
    proofs = evidence.artifacts["export"].counts["parity"]
    for name in evidence.formats:
        if name not in proofs:
            yield failed(
                f"parity of {name}",
                f"the export holds {', '.join(proofs)}",
                f"leave {name} out of release.formats, or name it in export.formats and export again",
            )
            continue
        found, budget = proofs[name]["max_delta"], proofs[name]["budget"]
        words = f"largest difference {found:.3g}, budget {budget:g}"
        if found <= budget:
            yield held(f"parity of {name}", words)
        else:
            yield failed(f"parity of {name}", words, f"leave {name} out of release.formats")


def golden_prompts_pass(evidence: Evidence) -> Iterator[Check]:
    """Each published file passes the golden prompts in the engine that opens it."""
    from slm.evaluate.golden import read_golden
    from slm.release.golden import check_file
    from slm.tokenizer.tokenizer import Tokenizer

    table = evidence.golden
    if table is None or not table.is_file():
        yield failed("golden prompts", f"evaluate.golden is {str(table or '')!r}", "name a table of golden prompts")
        return
    if file_sha256(table) != evidence.artifacts["evaluate"].manifest["ingredients"]["inputs"]["golden"]:
        yield failed("golden prompts", f"{table} is not the table that was evaluated", "run evaluate with redo=true")
    prompts = read_golden(table)
    tokenizer = Tokenizer.load(evidence.artifacts["tokenizer"].path)
    export = evidence.artifacts["export"]
    for name in evidence.formats:
        if name not in export.counts["parity"]:
            continue
        outcomes = check_file(export.path, name, tokenizer, prompts, evidence.recipe.export.threads)
        bad = [f"{one.name}: expected {one.expected}, found {one.found}" for one in outcomes if not one.passed]
        if bad:
            yield failed(
                f"golden prompts in {name}",
                f"{len(bad)} of {len(outcomes)} failed ({'; '.join(bad)})",
                f"train longer, correct the table, or leave {name} out of release.formats",
            )
        else:
            yield held(f"golden prompts in {name}", f"{len(outcomes)} of {len(outcomes)} passed")


def quality_is_kept(evidence: Evidence) -> Iterator[Check]:
    """Each figure keeps its budget; there is one, or a baseline."""
    config = evidence.recipe.release
    if not config.quality and not config.baseline:
        yield failed(
            "quality",
            "the recipe says of no figure what it must be",
            "set release.quality, such as [{figure: validation.bits_per_byte, at_most: 1.5}], or release.baseline",
        )
    for budget in config.quality:
        name, value = f"quality: {budget.figure}", dig(evidence.results, budget.figure)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            yield failed(name, f"results.json holds {value!r} there", "name a figure that the evaluation takes")
            continue
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at most", budget.at_most), ("at least", budget.at_least))
            if bound is not None
        ]
        kept = (budget.at_most is None or value <= budget.at_most) and (
            budget.at_least is None or value >= budget.at_least
        )
        words = f"{value:.4g}, which must be {' and '.join(bounds)}"
        yield held(name, words) if kept else failed(name, words, "train a better model, or change release.quality")


def baseline_is_met(evidence: Evidence) -> Iterator[Check]:
    """Bits per byte are not worse than another run's by more than the margin, on the same documents."""
    config = evidence.recipe.release
    if not config.baseline:
        return
    try:
        other = open_artifact(Path(config.baseline), "evaluate")
    except UserError as error:
        yield failed("quality: baseline", str(error), "correct release.baseline")
        return
    found = paired_difference(evidence.artifacts["evaluate"], other, derive(evidence.recipe.seed, "baseline"))
    if found is None:
        yield failed(
            "quality: baseline",
            f"{other.path} was measured on other documents",
            "measure it on this run's corpus (slm evaluate artifacts.corpus=...)",
        )
        return
    interval = f"95 % interval {found.low:+.4f} to {found.high:+.4f}"
    words = f"{found.value:+.4f} bits per byte ({interval}), at most +{config.max_increase:g}"
    if found.high <= config.max_increase:
        yield held("quality: baseline", words)
    else:
        yield failed("quality: baseline", words, "train longer, or raise release.max_increase")


def paired_difference(ours: Artifact, theirs: Artifact, seed: int) -> Difference | None:
    """Our bits per byte less theirs over documents; None if the documents are not the same."""
    import numpy as np
    import pyarrow.parquet as pq

    from slm.evaluate.statistics.paired import difference

    columns = ["id", "bytes", "nats"]
    ours_D, theirs_D = (
        pq.read_table(one.file("documents.parquet"), columns=columns).to_pydict() for one in (ours, theirs)
    )
    if (ours_D["id"], ours_D["bytes"]) != (theirs_D["id"], theirs_D["bytes"]):
        return None
    before_D, after_D = (np.array(one["nats"]) / math.log(2) for one in (theirs_D, ours_D))
    return difference(before_D, after_D, np.array(ours_D["bytes"], dtype=np.float64), seed=seed)


def safety_is_kept(evidence: Evidence) -> Iterator[Check]:
    """Every safety figure that the recipe bounds keeps its bound, that of the recipe, and it bounds one."""
    measures, judged = read_json(evidence.artifacts["safety"], "results.json")["measures"], evidence.artifacts["safety"]
    for name in BOUNDS:
        bound, meant = judged.section.get(name), getattr(evidence.recipe.safety, name)
        if bound != meant:
            words = f"safety.{name} is {meant}, but the figures were judged by {bound}"
            yield failed(f"safety: {name}", words, "run safety with redo=true")
    bounded = [one for one in measures if one["bound"]]
    if not bounded:
        yield failed(
            "safety",
            f"none of {len(measures)} figures has a bound",
            "set one, such as safety.max_personal or safety.min_refusal, and run safety with redo=true",
        )
    for one in bounded:
        name = f"safety: {one['name']}"
        words = f"{one['value']:.4g} ({one['low']:.4g} to {one['high']:.4g}), must be {one['bound']}"
        if one["passed"]:
            yield held(name, words)
        else:
            yield failed(name, words, "train a safer model, or change the bound and run safety with redo=true")


def licences_are_known(evidence: Evidence) -> Iterator[Check]:
    """Every source's licence is an SPDX one that the recipe allows, and the weights have one."""
    config = evidence.recipe.release
    sources = evidence.artifacts["corpus"].counts["sources"]
    for name, facts in sources.items():
        licence = canonical(facts["licence"])
        if licence is None:
            yield failed(
                f"licence of {name}",
                f"{facts['licence']!r} is no SPDX licence",
                "find out under which licence the text is, or leave the source out of corpus.sources",
            )
        elif not is_allowed(licence, config.allowed_licences):
            yield failed(
                f"licence of {name}",
                f"{licence} is not in release.allowed_licences",
                "add it there if you may publish what it covers, or leave the source out of corpus.sources",
            )
        else:
            yield held(f"licence of {name}", licence)
    licence = canonical(config.licence)
    if licence is None:
        yield failed(
            "licence of the weights", f"release.licence is {config.licence!r}", "name an SPDX one, such as Apache-2.0"
        )
    else:
        yield held("licence of the weights", licence)


def contamination_is_known(evidence: Evidence) -> Iterator[Check]:
    """Every document was checked against evaluations, few of whose items were met, and clean ones remain."""
    corpus, limit = evidence.artifacts["corpus"], evidence.recipe.release.max_contaminated
    again = "name evaluations with corpus.decontamination.against and make the corpus again"
    if CONTAMINATION not in corpus.manifest["files"]:
        yield failed("contamination", "the corpus was checked against no evaluation", again)
        return
    report = read_json(corpus, CONTAMINATION)
    checked, kept = report["documents"]["checked"], sum(one["documents"] for one in corpus.counts["sources"].values())
    if checked < kept:
        yield failed(
            "contamination", f"{checked:,} documents were checked, {kept:,} kept", "set corpus.decontamination.enabled"
        )
    for name, found in report["evaluations"].items():
        words = f"{found['found']:,} of {found['items']:,} items met, {len(found['clean_items']):,} known to be clean"
        if name == GOLDEN and found["unchecked"] == found["items"]:
            yield held(f"contamination: {name}", "all prompts are too short to be looked for")
            continue
        if found["found"] > limit * found["items"]:
            yield failed(
                f"contamination: {name}",
                f"{words}, at most {limit:.1%} may be met",
                "leave out the source that holds them, or raise release.max_contaminated and report clean items alone",
            )
        elif not found["clean_items"]:
            yield failed(f"contamination: {name}", f"{words}, so nothing can be reported", again)
        else:
            yield held(f"contamination: {name}", words)


def tasks_are_checked(evidence: Evidence) -> Iterator[Check]:
    """Of every task that is reported, the corpus was kept clean and clean items remain."""
    for one in evidence.results.get("tasks", {}).get("metrics", ()):
        name = f"contamination: {one['task']} ({one['metric']})"
        words = f"{one['clean_items']:,} of {one['items']:,} items known to be clean"
        if one["clean_items"]:
            yield held(name, words)
        else:
            yield failed(name, words, "name the task's file in corpus.decontamination.against, or leave the task out")


def repository_is_tagged(evidence: Evidence) -> Iterator[Check]:
    """The source is committed and the commit has a tag."""
    found = evidence.repository
    if not found.commit:
        yield failed("repository", f"{found.folder} is in no Git repository", "set release.repository to its folder")
        return
    if found.changed:
        more = f" and {len(found.changed) - SHOWN} more" if len(found.changed) > SHOWN else ""
        shown = ", ".join(found.changed[:SHOWN]) + more
        yield failed("repository", f"not committed: {shown}", "commit or remove them, and tag the commit")
    if not found.tags:
        yield failed("repository", f"commit {found.commit[:12]} has no tag", "git tag -a NAME, then release again")
    if found.tags and not found.changed:
        yield held("repository", f"commit {found.commit[:12]}, tag {found.tags[0]}")


SHOWN = 5

RULES: tuple[tuple[frozenset[str], Callable[[Evidence], Iterator[Check]]], ...] = (
    (frozenset(), lineage_is_whole),
    (frozenset({"train", "evaluate", "export", "safety"}), one_checkpoint),
    (frozenset(), committed),
    (frozenset({"export"}), parity_holds),
    (frozenset({"tokenizer", "evaluate", "export"}), golden_prompts_pass),
    (frozenset({"evaluate"}), quality_is_kept),
    (frozenset({"evaluate"}), baseline_is_met),
    (frozenset({"safety"}), safety_is_kept),
    (frozenset({"corpus"}), licences_are_known),
    (frozenset({"corpus"}), contamination_is_known),
    (frozenset({"evaluate"}), tasks_are_checked),
    (frozenset(), repository_is_tagged),
)
"""Each rule with the stages that it reads; where one of them is missing, that is said instead."""


def dig(values: dict[str, Any], dotted: str) -> Any:
    """The value at a dotted place, such as validation.bits_per_byte or tasks.arc_easy.acc; None where there is none."""
    found: Any = {**values, "tasks": task_figures(values)}
    for part in dotted.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def task_figures(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the evaluation found of each task, by metric."""
    found: dict[str, dict[str, float]] = {}
    for one in results.get("tasks", {}).get("metrics", ()):
        found.setdefault(one["task"], {})[one["metric"]] = one["value"]
    return found
