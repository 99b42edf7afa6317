"""Held-out preference accuracy of models beside that of the model before them, pair by pair.

    python scripts/preference_accuracy.py --tokenizer RUN/tokenizer --before RUN RUN ...

A run is asked about the pairs that its own corpus holds out, or all about those of `--corpus`. Where no two runs hold
out the same pair (the folds of a cross-validation), the row `all` is that of all pairs together. Each model is asked
what `slm evaluate` asks (`slm.evaluate.tasks.preference`): whether the chosen answer is the likelier one, as a whole
(acc) and per byte (acc_bytes). Beside that stands how often a model has raised the chosen answer above the rejected
one, compared with the model before (acc_ratio: DPO's implicit reward; the model before has none, so that chance is a
half). Intervals are 95 %, over pairs drawn anew; differences are paired. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from slm.compose import guarded
from slm.core.artifact import newest_checkpoint, open_artifact
from slm.core.errors import UserError
from slm.evaluate.scorer import Scorer
from slm.evaluate.statistics.intervals import estimate
from slm.evaluate.statistics.paired import difference
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.preference import held_out_pairs, run_preference
from slm.model.load import load_model
from slm.tokenizer import Tokenizer

Rows = dict[str, dict[str, Result]]
"""By metric and pair."""


def main() -> None:
    """Ask all, print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="a corpus of pairs; RUN/corpus if left out")
    parser.add_argument("--before", type=Path, required=True, help="the run that the others are compared with")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the folder of their tokenizer")
    parser.add_argument("--pairs", type=int, default=0, help="held-out pairs at even distances; 0 takes all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    corpora = {run: args.corpus or run / "corpus" for run in args.runs}
    before = {corpus: asked(args.before, corpus, args) for corpus in dict.fromkeys(corpora.values())}
    sides = {str(run): (before[corpus], asked(run, corpus, args)) for run, corpus in corpora.items()}
    if len(sides) > 1 and (both := together(list(sides.values()))):
        sides["all"] = both
    found = {name: compared(*side) for name, side in sides.items()}
    pairs = {name: len(told["acc"]) for name, (told, _) in sides.items()}
    print(f"{'run':<28}{'':<12}{'before':>9}{'after':>9}   difference [95 %]")
    for run, figures in found.items():
        for name, (old, new, low, high) in figures.items():
            print(f"{run:<28}{name:<12}{old:>9.3f}{new:>9.3f}   {new - old:+.3f} [{low:+.3f}, {high:+.3f}]")
    print(json.dumps({"pairs": pairs, "precision": args.precision, "runs": found}))


@torch.inference_mode()
def asked(run: Path, corpus: Path, args: argparse.Namespace) -> Rows:
    """What a run's newest checkpoint says of each pair that a corpus holds out."""
    pairs = held_out_pairs(open_artifact(corpus, "corpus"), args.pairs)
    if not pairs:
        raise UserError(f"{corpus} holds no pairs of answers; name the corpus of a preference run with --corpus")
    model = load_model(newest_checkpoint(run)).eval()
    outcome = run_preference(Scorer(model, Tokenizer.load(args.tokenizer), 4_096, args.precision), pairs)
    rows: Rows = {}
    for result in outcome.results:
        rows.setdefault(result.metric, {})[result.item] = result
    return rows


def together(sides: list[tuple[Rows, Rows]]) -> tuple[Rows, Rows] | None:
    """Before and after over the pairs of all runs; None where two runs were asked about the same pair."""
    items = [item for before, _ in sides for item in before["acc"]]
    if len(set(items)) < len(items):
        return None
    before, after = ({metric: {} for metric in sides[0][0]} for _ in range(2))
    for side in sides:
        for whole, part in zip((before, after), side, strict=True):
            for metric, rows in part.items():
                whole[metric] |= rows
    return before, after


def compared(before: Rows, after: Rows) -> dict[str, tuple[float, float, float, float]]:
    """By metric: before, after, and the interval of the difference; `UserError` where they took different pairs."""
    if before.keys() != after.keys() or any(before[metric].keys() != after[metric].keys() for metric in before):
        raise UserError(
            "the runs did not take the same pairs, for one of them leaves out pairs that are longer than its "
            "model.max_seq_len; compare runs of one length"
        )
    found = {}
    for metric, rows in before.items():
        old, new = (np.array([side[metric][item].value for item in rows]) for side in (before, after))
        gap = difference(old, new, None, seed=1)
        found[metric] = (float(old.mean()), float(new.mean()), gap.low, gap.high)
    gains = [
        np.subtract(after["acc"][item].choice_logprobs, row.choice_logprobs) for item, row in before["acc"].items()
    ]
    raised = estimate(np.array([float(chosen > rejected) for chosen, rejected in gains]), seed=1)
    found["acc_ratio"] = (0.5, raised.value, raised.low - 0.5, raised.high - 0.5)
    return found


if __name__ == "__main__":
    guarded(main)
