"""The questions that one asks of a run first, each answered by a word and the figures behind it.

An answer is yes, no, or open: open where intervals overlap, or nothing was bounded. A question that the run's
artifacts cannot answer at all is left out; the page's last section says what would.
"""

from __future__ import annotations

from collections.abc import Iterator

from slm.report.compression import variants_of
from slm.report.gather import Run
from slm.report.page import Verdict
from slm.report.sections import BASELINES
from slm.report.tasks import above_chance


def verdicts(run: Run) -> list[Verdict]:
    """Every question that can be answered, in the order of the page."""
    return [*_quality(run), *_checks(run), *_files(run), _lineage(run)]


def _quality(run: Run) -> Iterator[Verdict]:
    validation, baselines = run.results.get("validation"), run.results.get("baselines", {})
    known = {name: baselines[key] for key, (name, _) in BASELINES.items() if baselines.get(key) is not None}
    if validation and known:
        low, high = validation["interval_95"]
        name = min(known, key=lambda one: float(known[one]))
        best = known[name]
        held = True if high < best else False if low > best else None
        words = f"{low:.3f} to {high:.3f} against {best:.3f} of {name}, the best"
        yield Verdict("fewer bits per byte than every baseline", held, words, "result")
    metrics = run.results.get("tasks", {}).get("metrics", [])
    above, guessed = above_chance(metrics)
    if guessed:
        held = True if above == guessed else None
        yield Verdict("benchmarks above chance", held, f"{above} of {guessed} with their whole interval", "tasks")
    if metrics:
        met, unknown = (sum(one[key] for one in metrics) for key in ("contaminated_items", "unchecked_items"))
        items = sum(one["items"] for one in metrics)
        words = f"{met:,} of {items:,} were met in the corpus"
        words += f", {unknown:,} were not looked for" if unknown else ""
        yield Verdict("benchmark items not in the corpus", False if met else None if unknown else True, words, "tasks")
    for one in run.beside.findings[:1] if run.beside else ():
        held = {"B is better": True, "A is better": False}.get(one.verdict)
        gap = one.difference
        words = f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] {one.name}"
        yield Verdict(f"better than {run.beside_name}", held, words, "comparison")


def _checks(run: Run) -> Iterator[Verdict]:
    golden = run.results.get("golden", {})
    if golden.get("items"):
        total = golden["passed"] + golden["failed"]
        yield Verdict("golden prompts", not golden["failed"], f"{golden['passed']} of {total} passed", "golden")
    measures = run.safety.get("measures", [])
    if measures:
        bounded = [one for one in measures if one["bound"]]
        kept = sum(one["passed"] for one in bounded)
        words = f"{kept} of {len(bounded)} bounds kept" if bounded else f"{len(measures)} figures, none bounded"
        yield Verdict("safety", kept == len(bounded) if bounded else None, words, "safety")


def _files(run: Run) -> Iterator[Verdict]:
    variants = variants_of(run)
    if variants:
        name = max(variants, key=lambda one: float(variants[one]["increase"]))
        kept = all(one["increase"] <= one["settings"]["max_bits_per_byte_increase"] for one in variants.values())
        words = f"at most {variants[name]['increase']:+.4f} bits per byte, by {name}"
        yield Verdict("compression within its budget", kept, words, "compression")
    formats = run.parity.get("formats", {})
    if formats:
        equal = sum(one["token_ids_equal"] and one["max_delta"] <= one["budget"] for one in formats.values())
        yield Verdict(
            "files say what the checkpoint says", equal == len(formats), f"{equal} of {len(formats)} proved", "export"
        )


def _lineage(run: Run) -> Verdict:
    wrong = len(run.broken_links) + len(run.stale)
    words = (
        f"{wrong} link{'s do' if wrong > 1 else ' does'} not hold"
        if wrong
        else f"{len(run.artifacts)} artifacts, back to the text"
    )
    if "corpus" not in run.artifacts and not wrong:
        return Verdict("lineage whole", None, "the corpus is not at hand", "lineage")
    return Verdict("lineage whole", not wrong, words, "lineage")
