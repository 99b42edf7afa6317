"""The forms that one model was made in, as the manifests of its compress and export artifacts tell them.

In: such artifacts, or the run that holds them. Out: a `Flavour` each: what opens it, its size, what it costs in
quality with an interval, how fast it answers and how much memory that takes; what was not measured is None. No file
of a model is opened, so asking takes milliseconds, also on a machine that has none of the engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm.core.artifact import MANIFEST, Artifact, newest
from slm.core.console import size, table
from slm.core.errors import UserError
from slm.core.manifest import read_manifest

CHECKPOINT = "checkpoint"
"""What the others are timed beside, and its key among an artifact's counts."""
HOLDERS = {"export": "flavours", "compress": "variants"}
"""Kinds of artifacts, and where among their counts their flavours stand."""
NOT_COST = ("size_bytes", "settings", "speed", "tasks")
"""What the record of a compressed variant holds beside its cost."""
WAITS = ("load_seconds", "first_token_seconds")
COLUMNS = (
    "flavour", "size", "Δ bits/byte [95 %]", "KL", "top-1", "load s, cold / warm", "first token s, cold / warm",
    "prefill tok/s", "decode tok/s (× fp32)", "memory", "engine",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flavour:
    """One form of a model."""

    name: str
    engine: str
    path: Path
    size_bytes: int
    cost: Mapping[str, Any] | None
    """As `slm.compress.measure.Cost`."""
    speed: Mapping[str, Any] | None
    """As `slm.serve.timing.time_all` gives it; where it could not be timed, why (`unknown`)."""
    tasks: Sequence[Mapping[str, Any]]
    """Differences on choice tasks."""

    @property
    def timed(self) -> Mapping[str, Any] | None:
        """Its speeds, where there are any."""
        return None if self.speed is None or "unknown" in self.speed else self.speed


def flavours(places: Sequence[Path]) -> list[Flavour]:
    """All flavours of the artifacts or runs at `places`, the checkpoint that they were timed beside first."""
    found: list[Flavour] = []
    for place in places:
        artifacts = [artifact for folder in _folders(place) if (artifact := _open(folder)) is not None]
        if not artifacts:
            raise UserError(
                f"{place} holds no export and no compressed model; give a run, an export or compress folder, or make "
                "one, as by slm pipeline recipe=ship"
            )
        prefix = f"{_run_of(artifacts[0].path)}: " if len(places) > 1 else ""
        for artifact in artifacts:
            found += [one for one in _of(artifact, prefix) if one.name not in {known.name for known in found}]
    return sorted(found, key=lambda one: not one.name.endswith(CHECKPOINT))


def show(found: Sequence[Flavour]) -> None:
    """Print the table of flavours."""
    table("Flavours", COLUMNS[:-1], [cells(one)[:-1] for one in found])  # a terminal has no room for the engine


def cells(one: Flavour) -> tuple[str, ...]:
    """A flavour as a row of text."""
    cost, speed = one.cost, one.timed
    quality = ("-", "-", "-")
    if cost is not None:
        low, high = cost["interval_95"]
        delta = f"{cost['increase']:+.4f} [{low:+.4f}, {high:+.4f}]"
        quality = (delta, f"{cost['mean_kl']:.2g}", f"{100 * cost['top1_agreement']:.1f} %")
    figures: tuple[str, ...] = ("-",) * 5
    if speed is not None:
        ratio = f" (× {speed['decode_ratio']:.2f})" if "decode_ratio" in speed else ""
        figures = (
            *(
                f"{speed[f'{key}_cold']:.2f} / {speed[f'{key}_warm']:.2f}"
                for key in ("load_seconds", "first_token_seconds")
            ),
            f"{speed['prefill_tokens_per_second']:,.0f}",
            f"{speed['decode_tokens_per_second']:,.0f}{ratio}",
            size(speed["peak_bytes"]),
        )
    return (one.name, size(one.size_bytes), *quality, *figures, one.engine)


def holds_flavours(place: Path) -> bool:
    """Whether `place` is an export or compress artifact."""
    return (newest(place) / MANIFEST).is_file() and read_manifest(newest(place) / MANIFEST)["kind"] in HOLDERS


def _folders(place: Path) -> list[Path]:
    inside = [place / kind for kind in HOLDERS if (newest(place / kind) / MANIFEST).is_file()]
    return inside or ([place] if (newest(place) / MANIFEST).is_file() else [])


def _open(folder: Path) -> Artifact | None:
    path = newest(folder)
    manifest = read_manifest(path / MANIFEST)
    return Artifact(path, manifest) if manifest["kind"] in HOLDERS else None


def _run_of(path: Path) -> str:
    return path.absolute().parent.name


def _of(artifact: Artifact, prefix: str) -> list[Flavour]:
    counts = artifact.counts
    found = []
    if CHECKPOINT in counts:
        facts = counts[CHECKPOINT]
        source = artifact.path / artifact.manifest["parents"]["train"]["path"]
        found.append(
            Flavour(f"{prefix}{CHECKPOINT}", "slm, float32", source, facts["size_bytes"], None, facts["speed"], ())
        )
    for name, facts in counts.get(HOLDERS[artifact.kind], {}).items():
        of_export = artifact.kind == "export"
        found.append(
            Flavour(
                f"{prefix}{name}",
                facts["engine"] if of_export else "slm, float32 from integers",
                artifact.path / (facts["file"] if of_export else name),
                int(facts["size_bytes"]),
                facts.get("cost") if of_export else {key: facts[key] for key in facts if key not in NOT_COST},
                facts.get("speed"),
                facts.get("tasks", ()),
            )
        )
    return found
