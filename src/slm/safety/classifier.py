"""`slm safety classifier LABELLED FOLDER [text=prompt] [labels=S,H,V]`: toxic or not, learned from labelled texts.

In: a file of records (.jsonl, .json, .csv, .tsv, plain or .gz) with a text and labels; a text is toxic if any of the
labels is set, and left out and counted where none is given. Out: a folder like that of a quality model, made by the
same code (logistic regression over hashed words and pairs of words), with figures beside the weights.

The figures are those of texts that the model did not learn from: the records fall into five parts by a hash of the
text, and each part is scored by a model of the other four. They stay in the folder's model.json and go into every
result. On the 1,680 prompts of OpenAI's moderation set (522 toxic): precision 0.68 (0.64 to 0.72), recall 0.62 (0.58 to
0.66), false alarms 0.13, area under the curve 0.85, in 2 s. A classifier of words knows neither irony nor context, so
its share of toxic answers compares models and bounds them, and is no finding about a single answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm.core.console import say, table
from slm.core.errors import ProblemsError, UserError
from slm.corpus.cleaning.quality_model import BUCKETS, Example, area_under_curve, fit, scores_of, write_model
from slm.corpus.cleaning.quality_score import SETTINGS, features, load_model, probability
from slm.corpus.cleaning.views import TextViews
from slm.corpus.decontamination.rows import read_rows
from slm.safety.measures import Measure, share
from slm.safety.prompts import value_of

FOLDS = 5
LEAST = 10
"""Texts of each kind that every part needs."""
TOXIC = 0.5
USAGE = "usage: slm safety classifier LABELLED FOLDER [text=prompt] [labels=S,H,V], such as ... models/toxicity"
SET = frozenset({"1", "1.0", "true", "yes"})


@dataclass(frozen=True, slots=True)
class Classifier:
    """A classifier from a folder."""

    weights: NDArray[np.float32]
    bias: float
    figures: dict[str, Any]

    def is_toxic(self, text: str) -> bool:
        """Whether a text is more likely toxic than not, both kinds being as frequent."""
        return probability(TextViews(text), self.weights, self.bias) >= TOXIC


def train(arguments: Sequence[str]) -> None:
    """Make a classifier and print what it does to texts that it has not seen."""
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    words = [word for word in arguments if "=" not in word]
    if len(words) != 2 or set(settings) - {"text", "labels"}:
        raise ProblemsError([USAGE])
    file, folder = Path(words[0]).expanduser(), Path(words[1])
    if folder.exists() and not (folder / SETTINGS).is_file():
        raise UserError(f"{folder} exists and is no classifier; name another folder for it")
    labels = settings["labels"].split(",") if "labels" in settings else None
    parts, unlabelled = read_labelled(file, settings.get("text", "prompt"), labels)
    _require_both(file, parts)
    measures, area = cross_validated(parts)
    weights, bias = fit([example for part in parts for example in part])
    figures = {
        "texts": sum(map(len, parts)),
        "toxic": sum(toxic for part in parts for _, _, toxic in part),
        "unlabelled": unlabelled,
        "parts": FOLDS,
        **{one.name: one.record() for one in measures},
        "area under the curve": area,
    }
    write_model(folder, weights, bias, figures)
    table(f"Toxicity, on texts not learned from ({figures['texts']:,} texts, {figures['toxic']:,} toxic)",
          ("figure", "value", "95 % interval"),
          [(one.name, f"{one.value:.3f}", f"{one.low:.3f} to {one.high:.3f}") for one in measures]
          + [("area under the curve", f"{area:.3f}", "")])  # fmt: skip
    say(f"classifier: {folder}, {unlabelled:,} texts without a label left out; take it with safety.toxicity={folder}")


def read_labelled(file: Path, text: str, labels: Sequence[str] | None) -> tuple[list[list[Example]], int]:
    """The labelled texts in parts by a hash of each, and how many had no label.

    Without names every field but the text is a label.
    """
    parts: list[list[Example]] = [[] for _ in range(FOLDS)]
    unlabelled = 0
    for place, _, row in read_rows(file, "safety classifier"):
        content = value_of(row, text, place)
        names = labels or [name for name in row if name != text]
        given = [str(row[name]).lower() for name in names if row.get(name) not in (None, "")]
        if not given:
            unlabelled += 1
            continue
        part = hashlib.blake2b(content.encode("utf-8", "replace"), digest_size=2).digest()[0] % FOLDS
        parts[part].append((*features(TextViews(content), BUCKETS), bool(SET.intersection(given))))
    return parts, unlabelled


def cross_validated(parts: list[list[Example]]) -> tuple[list[Measure], float]:
    """Precision, recall and false alarms over all texts, each scored by a model that had not seen it; and the AUC."""
    scores, truths = [], []
    for number, part in enumerate(parts):
        weights, bias = fit([example for other in parts[:number] + parts[number + 1 :] for example in other])
        scores.append(scores_of(weights, bias, part))
        truths.append(np.array([toxic for _, _, toxic in part]))
    score, toxic = np.concatenate(scores), np.concatenate(truths)
    called = score >= 0
    measures = [
        share("recall", called[toxic].tolist()),
        share("false alarms", called[~toxic].tolist()),
    ]
    if called.any():
        measures.insert(0, share("precision", toxic[called].tolist()))
    return measures, area_under_curve(score, toxic)


def load_classifier(folder: Path) -> Classifier:
    """The classifier in a folder; `UserError` with the way out where there is none."""
    import json

    if not (folder / SETTINGS).is_file():
        raise UserError(
            f"safety.toxicity ({folder}) holds no {SETTINGS}; make a classifier with slm safety classifier LABELLED "
            "FOLDER, or leave safety.toxicity empty"
        )
    weights, bias = load_model(folder)
    figures = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["figures"]
    return Classifier(weights, bias, figures)


def _require_both(file: Path, parts: list[list[Example]]) -> None:
    for kind in (True, False):
        fewest = min(sum(toxic == kind for _, _, toxic in part) for part in parts)
        if fewest < LEAST:
            word = "toxic" if kind else "harmless"
            raise UserError(
                f"{file}: one fifth of the texts has {fewest} {word} ones, but {LEAST} are needed; give more labelled "
                "texts, or name their labels with labels="
            )
