"""What an evaluation found, item by item, read back: the table of held-out documents and that of task items.

In: a finished evaluate artifact. Out: one `Measurement` for each metric, with what makes its items the same as those
of another run, what they may be grouped by, and the rows of the table for who wants the texts. Two measurements are
matched item by item; a pair whose items differ is refused with the counts, since a difference between means over
other items says nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from slm.core.artifact import MANIFEST, Artifact, newest, open_artifact
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.evaluate.stage import DOCUMENTS, ITEMS, LAYOUT_VERSION, TEACHER
from slm.evaluate.statistics.intervals import Floats, Integers

BITS_PER_BYTE = "bits per byte"
AGREEMENT, DIVERGENCE = "teacher agreement", "nats from the teacher"
LOWER_IS_BETTER = ("bits per byte", "bits_per_byte", "nll", "perplexity", "brier", "loss", "word_perplexity",
                   "byte_perplexity", "bits_per_char")  # fmt: skip
NOT_RECORDED = "not recorded"
CLEAN = {True: "clean", False: "met in the corpus", None: NOT_RECORDED}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric over items; its value is the sum of the numerators over that of the denominators."""

    name: str
    lower_is_better: bool
    keys_N: list[str]
    """Names of the items, each once."""
    contents_N: list[str]
    """Hashes of what the items ask."""
    numerators_N: Floats
    denominators_N: Floats
    clusters_N: Integers | None
    """Equal numbers for items that share a document; None where each has its own."""
    groups: Mapping[str, list[str]]
    """For each way of grouping, the group of each item."""
    sizes: Mapping[str, Floats]
    """For each quantity to cut the items by, that of each item."""
    rows: Sequence[Row]

    def take(self, chosen_M: Integers) -> Measurement:
        """Some of the items, in this order."""
        return Measurement(
            self.name,
            self.lower_is_better,
            [self.keys_N[index] for index in chosen_M],
            [self.contents_N[index] for index in chosen_M],
            self.numerators_N[chosen_M],
            self.denominators_N[chosen_M],
            None if self.clusters_N is None else self.clusters_N[chosen_M],
            {name: [values[index] for index in chosen_M] for name, values in self.groups.items()},
            {name: values[chosen_M] for name, values in self.sizes.items()},
            [self.rows[index] for index in chosen_M],
        )

    def scores(self) -> Floats:
        """Each item's own value, [N]."""
        return self.numerators_N / self.denominators_N


def evaluation_of(path: Path) -> Artifact:
    """The evaluate artifact at `path`, or of the run at `path`."""
    for place in (path / "evaluate", path):
        if (place / MANIFEST).is_file():
            return open_artifact(newest(place), "evaluate")
    raise UserError(
        f"{path} holds no evaluation (no {path / 'evaluate' / MANIFEST}); make one by slm evaluate, or give a run "
        "that has one"
    )


def name_of(evaluation: Artifact) -> str:
    """The run that an evaluation belongs to."""
    folder = evaluation.path.absolute()
    return folder.parent.name if folder.name == "evaluate" else folder.name


def read_measurements(evaluation: Artifact) -> dict[str, Measurement]:
    """Every metric of an evaluation by its name, bits per byte first."""
    layout = evaluation.manifest["ingredients"]["inputs"].get("layout_version")
    if layout != LAYOUT_VERSION:
        raise UserError(
            f"{evaluation.path} has layout version {layout}, this slm reads {LAYOUT_VERSION}; evaluate again with "
            "redo=true"
        )
    found = {BITS_PER_BYTE: _documents(pq.read_table(evaluation.file(DOCUMENTS)).to_pylist())}
    if TEACHER in evaluation.manifest["files"]:
        found.update(_teacher(pq.read_table(evaluation.file(TEACHER)).to_pylist(), evaluation))
    if ITEMS in evaluation.manifest["files"]:
        found.update(task_measurements(evaluation.file(ITEMS)))
    return found


def task_measurements(table: Path) -> dict[str, Measurement]:
    """Every metric of every task of an `items.parquet`, by both names."""
    by_metric: dict[str, list[Row]] = {}
    for row in pq.read_table(table).to_pylist():
        by_metric.setdefault(f"{row['task']}: {row['metric']}", []).append(row)
    return {name: _items(name, rows) for name, rows in by_metric.items()}


def shared_documents(prompts: Sequence[str]) -> Integers | None:
    """Which prompts ask about the same text, as those of SQuAD do: what stands before their last two paragraphs.

    None where all have the same there, or none, which is then no text that they are about.
    """
    before = [prompt.rsplit("\n\n", 2)[0] if prompt.count("\n\n") >= 2 else "" for prompt in prompts]
    if "" in before or not 1 < len(set(before)) < len(before):
        return None
    return np.unique(before, return_inverse=True)[1].astype(np.int64)


def matched(a: Measurement, b: Measurement, names: tuple[str, str]) -> Measurement:
    """`b` in the order of `a`; `UserError` with the counts where their items are not the same."""
    place = {key: index for index, key in enumerate(b.keys_N)}
    only_a = [key for key in a.keys_N if key not in place]
    only_b = len(place) - (len(a.keys_N) - len(only_a))
    both = [index for index, key in enumerate(a.keys_N) if key in place]
    other = [index for index in both if b.contents_N[place[a.keys_N[index]]] != a.contents_N[index]]
    if only_a or only_b or other:
        raise UserError(
            f"{a.name} was measured on different items: {len(only_a):,} only in {names[0]}, {only_b:,} only in "
            f"{names[1]}, {len(other):,} of the same name but another text, {len(both) - len(other):,} the same; "
            "evaluate both on the same (artifacts.corpus and evaluate decide which)"
        )
    return b.take(np.array([place[key] for key in a.keys_N], dtype=np.int64))


def held_out_texts(evaluation: Artifact, wanted: Collection[str]) -> dict[str, str]:
    """Texts of held-out documents by id, from the corpus of an evaluation; none where that is gone or another."""
    recorded = evaluation.manifest["parents"]["corpus"]
    folder = Path(evaluation.path / recorded["path"])
    if not wanted or not (folder / MANIFEST).is_file():
        return {}
    corpus = open_artifact(folder, "corpus")
    if corpus.fingerprint != recorded["fingerprint"]:
        return {}
    return {document.id: document.text for document in read_documents(corpus, "validation") if document.id in wanted}


def sureness(row: Row) -> float:
    """By how much the right choice is more likely than the best wrong one, in nats; 0 where there are no choices."""
    logprobs, gold = row.get("choice_logprobs"), row.get("gold", -1)
    if not logprobs or gold is None or gold < 0 or len(logprobs) < 2:
        return 0.0
    return float(logprobs[gold] - max(value for index, value in enumerate(logprobs) if index != gold))


def answer_of(row: Row) -> str:
    """What was answered, or each choice with its log-likelihood in nats, the right one marked."""
    if not row.get("choice_logprobs"):
        return str(row.get("answer") or "")
    return "\n".join(
        f"{'* ' if number == row['gold'] else '  '}{logprob:9.2f}  {choice}"
        for number, (logprob, choice) in enumerate(zip(row["choice_logprobs"], row["choices"], strict=True))
    )


def _documents(rows: list[Row]) -> Measurement:
    columns = {name: np.array([row[name] for row in rows]) for name in ("bytes", "nats", "rare_token_rate")}
    packed = [f"{row['bytes']} {row['gzip_bits_per_byte']:.9g}" for row in rows]  # as good as a hash, and there
    return Measurement(
        BITS_PER_BYTE,
        True,
        [row["id"] for row in rows],
        packed,
        columns["nats"] / math.log(2),
        columns["bytes"].astype(np.float64),
        None,
        {name: [row[name] or NOT_RECORDED for row in rows] for name in ("source", "domain", "language")},
        {"bytes": columns["bytes"].astype(np.float64), "share of rare tokens": columns["rare_token_rate"]},
        rows,
    )


def _teacher(rows: list[Row], evaluation: Artifact) -> dict[str, Measurement]:
    """Agreement with a teacher and divergence from it, each a position; items are the same beside one teacher alone."""
    keys, positions = [row["id"] for row in rows], np.array([row["positions"] for row in rows], dtype=np.float64)
    teacher = evaluation.manifest["parents"]["teacher"]["fingerprint"]
    contents = [f"{row['positions']} {teacher}" for row in rows]
    return {
        name: Measurement(
            name, lower, keys, contents, np.array([row[column] for row in rows], dtype=np.float64), positions, None, {},
            {"positions": positions}, rows,
        )
        for name, column, lower in ((AGREEMENT, "agreed", False), (DIVERGENCE, "divergence_nats", True))
    }  # fmt: skip


def _items(name: str, rows: list[Row]) -> Measurement:
    contents = [
        hashlib.sha256(repr((row["prompt"], list(row["choices"] or ()), row["gold"])).encode()).hexdigest()
        for row in rows
    ]
    return Measurement(
        name,
        rows[0]["metric"] in LOWER_IS_BETTER,
        [row["item"] for row in rows],
        contents,
        np.array([row["value"] for row in rows], dtype=np.float64),
        np.ones(len(rows)),
        shared_documents([row["prompt"] for row in rows]),
        {
            "source": [row["source"] or NOT_RECORDED for row in rows],
            "language": [row["language"] or NOT_RECORDED for row in rows],
            "contamination": [CLEAN[row["clean"]] for row in rows],
        },
        {
            "prompt tokens": np.array([row["prompt_tokens"] for row in rows], dtype=np.float64),
            "share of rare tokens": np.array([row["rare_token_rate"] or 0.0 for row in rows]),
        },
        rows,
    )
