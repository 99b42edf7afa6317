"""The distill stage: shards and a teacher in, what the teacher says of each train row out, aligned with the rows.

In: the shards of the recipe and the checkpoint that `objective.distill.teacher` names, which must be of the same
tokenizer, template and version: its parents' fingerprints prove it. Out: `rows-00000.arrow`, ..., each of
`distill.unit_tokens` positions (see `slm.shards.store`). At 16 draws and up to 65,536 ids a position takes 38 bytes on
disk. Positions without a target (padding, ends, what SFT does not learn) hold zeros, so that a row is found by its
number alone.

Files are made one by one beside the artifact (`distill.units`), each in one rename; a killed run goes on at the first
that is missing and comes to the same bytes, and several processes may each make a part. Put together, the artifact
names the same files (links, no copies). Held-out rows are not stored: evaluations ask no teacher.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact, Draft, Spec, find, make, require_parent
from slm.core.console import Progress, duration, say, size
from slm.core.errors import UserError, is_disk_full
from slm.core.parts import part_of
from slm.core.units import is_finished, keep_only, publish, read_facts, remove_abandoned, verified
from slm.shards.store import STORE_VERSION
from slm.tokenizer.tokenizer import TEMPLATE_FILE
from slm.train.initial import teacher_of

if TYPE_CHECKING:
    from slm.recipe import Recipe

FILE = "rows.arrow"


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows `first` up to but not including `last` of the train split."""

    first: int
    last: int
    key: str
    bytes: int
    """Positions: what progress is counted in."""


def run(recipe: Recipe) -> Artifact | None:
    """Store the teacher's distributions, unless they are there or taken from elsewhere; None where a part was asked."""
    if recipe.artifacts.distill:
        return recipe.artifact("distill")
    if not (recipe.objective.reads_store and recipe.objective.distill.teacher):
        raise UserError(
            "a store is made of a teacher for students that read it; set objective.kind=distill, "
            "objective.distill.source=store and objective.distill.teacher=RUN"
        )
    shards, tokenizer = recipe.artifact("shards"), recipe.artifact("tokenizer")
    require_parent(shards, "tokenizer", tokenizer)
    teacher = teacher_of(recipe, tokenizer)
    parents = {"teacher": teacher, "shards": shards, "tokenizer": tokenizer}
    facts = facts_of(recipe, parents)
    spec = Spec("distill", recipe.distill, parents, facts, recipe.seed)
    folder = recipe.folder("distill")
    root = folder.with_name(f"{folder.name}.units")
    units = plan(recipe, facts, int(shards.counts["train"]["rows"]))
    if recipe.distill.part:
        number, total = part_of("distill", recipe.distill.part)
        if find(folder, spec, redo=recipe.redo) is not None:
            say(f"distill: part {recipe.distill.part} has nothing to do, the store is there, put together ({folder})")
            return None
        fill(recipe, parents, facts, root, units[number::total])
        there = sum(is_finished(root, unit) for unit in units)
        say(
            f"distill: part {recipe.distill.part} is made, {there:,} of {len(units):,} files are there; the same "
            "command without distill.part makes what is missing and puts all together"
        )
        return None

    def build(draft: Draft) -> None:
        fill(recipe, parents, facts, root, units)
        assemble(draft, root, units, facts)

    made = make(folder, spec, build, redo=recipe.redo)
    if root.is_dir():
        keep_only(root, set())
    return made


def facts_of(recipe: Recipe, parents: Mapping[str, Artifact]) -> dict[str, Any]:
    """What the store is made from and every file of it repeats."""
    shards, tokenizer = parents["shards"], parents["tokenizer"]
    vocab_size = int(shards.counts["vocab_size"])
    if recipe.distill.method == "top_k" and recipe.distill.kept > vocab_size:
        raise UserError(
            f"distill.kept ({recipe.distill.kept:,}) must not exceed the {vocab_size:,} entries of the vocabulary; "
            "lower it"
        )
    return {
        "store_version": STORE_VERSION,
        "teacher": parents["teacher"].fingerprint,
        "shards": shards.fingerprint,
        "tokenizer_hash": tokenizer.counts["hash"],
        "template": hashlib.sha256(tokenizer.file(TEMPLATE_FILE).read_bytes()).hexdigest(),
        "method": recipe.distill.method,
        "kept": recipe.distill.kept,
        "temperature": recipe.objective.distill.temperature,
        "seed": recipe.seed,
        "vocab_size": vocab_size,
        "seq_len": int(shards.counts["seq_len"]),
    }


def plan(recipe: Recipe, facts: Mapping[str, Any], num_rows: int) -> list[Unit]:
    """All files of the store, in the order of the rows."""
    per_file = max(1, recipe.distill.unit_tokens // int(facts["seq_len"]))
    made_by = [facts, recipe.distill.identity()]
    units = []
    for first in range(0, num_rows, per_file):
        last = min(first + per_file, num_rows)
        key = hashlib.sha256(json.dumps([*made_by, first, last], sort_keys=True).encode()).hexdigest()[:32]
        units.append(Unit(first, last, key, (last - first) * int(facts["seq_len"])))
    return units


def fill(
    recipe: Recipe, parents: Mapping[str, Artifact], facts: Mapping[str, Any], root: Path, units: Sequence[Unit]
) -> None:
    """Make those of the files that are missing; `UserError` where the disk is full, which loses none that is made."""
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root)
    missing = [unit for unit in units if not is_finished(root, unit)]
    if not missing:
        return
    from slm.distill.write import Writer

    writer = Writer(recipe, parents, facts)
    tokens, there = (sum(unit.bytes for unit in some) for some in (units, missing))
    with Progress("distill", tokens, "tokens", tokens - there) as progress:
        for unit in missing:
            began = time.perf_counter()

            def write(folder: Path, unit: Unit = unit, began: float = began) -> dict[str, Any]:
                found = writer.write(range(unit.first, unit.last), folder / FILE, progress.advance)
                return {**found, "seconds": time.perf_counter() - began}

            try:
                publish(root, unit, write)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                raise UserError(
                    f"No space left on device while the store was written to {root}; free some space and run the same "
                    "command again: finished files are kept"
                ) from error


def assemble(draft: Draft, root: Path, units: Sequence[Unit], facts: Mapping[str, Any]) -> None:
    """The files as one artifact, and what can be said of them."""
    names, made = [], []
    for number, unit in enumerate(units):
        name = f"rows-{number:05d}.arrow"
        file = verified(root, unit) / FILE
        try:
            os.link(file, draft.path / name)
        except OSError:  # a file system without links
            shutil.copyfile(file, draft.path / name)
        names.append(name)
        made.append(read_facts(root, unit))
        draft.sealed[name] = made[-1]["files"][FILE]
    sums = {key: sum(found[key] for found in made) for key in ("targets", "figure", "seconds")}
    num_bytes = sum(record["size_bytes"] for record in draft.sealed.values())
    rows = units[-1].last
    tokens = rows * int(facts["seq_len"])
    sampled = facts["method"] == "samples"
    draft.counts.update(
        facts,
        files=names,
        rows=rows,
        rows_per_file=units[0].last,
        targets=sums["targets"],
        bytes_per_token=num_bytes / tokens,
        seconds=sums["seconds"],
    )
    mean = sums["figure"] / max(sums["targets"], 1)
    draft.counts["mean_entropy_nats" if sampled else "mean_kept_mass"] = mean
    what = "draws" if sampled else "likeliest tokens"
    told = f"the teacher's entropy is {mean:.3f} nats" if sampled else f"they hold {100 * mean:.1f} % of what it says"
    say(
        f"distill: {facts['kept']} {what} at each of {tokens:,} positions ({sums['targets']:,} targets), "
        f"{num_bytes / tokens:.1f} B a token, {size(num_bytes)}, in {duration(sums['seconds'])}; {told}"
    )
