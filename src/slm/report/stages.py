"""The sections about vocabulary, rows, files, lineage, and how to make it all again."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from slm.core.artifact import Artifact
from slm.core.console import size
from slm.core.model_files import gguf_models
from slm.report.gather import UNSEEN, Run, command
from slm.report.page import Bar, Code, Fact, Link, Section, Table, percent, scientific
from slm.report.sections import mark_stale

KINDS = {"hf": "Hugging Face", "gguf": "GGUF", "awq": "AutoAWQ", "onnx": "ONNX"}


def tokenizer(run: Run) -> Section:
    """What the vocabulary is worth."""
    section = Section("tokenizer", "Tokenizer")
    if not run.tokenizer:
        section.missing = command(run.recipe, "tokenizer")
        return section
    mark_stale(section, run, "tokenizer")
    vocabulary, splits, rare = run.tokenizer["vocabulary"], run.tokenizer["splits"], run.tokenizer["rare"]
    held_out = splits["validation"]
    section.lead = (
        f"{vocabulary['size']:,} ids; a token of held-out text is {held_out['bytes_per_token']:.2f} bytes on average."
    )
    section.facts = [
        Fact("merged pieces", f"{vocabulary['merged']:,}"),
        Fact("single characters", f"{vocabulary['characters']:,}"),
        Fact("bytes and control", f"{vocabulary['bytes'] + vocabulary['control']:,}"),
        Fact(f"seen less than {rare['seen_less_than']} times", f"{rare['pieces']:,}", f"never: {rare['never_seen']:,}"),
        Fact("sha256 of the model", vocabulary["hash"][:12]),
    ]
    section.tables = [
        Table(
            "Compression by kind of text",
            ("text", "documents", "UTF-8", "tokens", "bytes per token", "spelt in bytes", "rare tokens"),
            [
                (
                    name, f"{item['documents']:,}", size(item["bytes"]), f"{item['tokens']:,}",
                    f"{item['bytes_per_token']:.2f}", percent(item["byte_fallback_rate"], 2), _rare_rate(item),
                )
                for name, item in _measured(run.tokenizer)
            ],
        )
    ]  # fmt: skip
    longest = run.tokenizer.get("longest_pieces", [])
    if longest:
        section.codes = [Code("Longest pieces", "  ".join(repr(piece) for piece in longest), folded=True)]
    return section


def _measured(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that the tokenizer was measured on; a way of grouping that repeats another once."""
    for split, figures in report["splits"].items():
        yield f"{split}: all", figures
        shown: list[dict[str, Any]] = []
        for kind in ("domains", "sources", "languages"):
            group: dict[str, Any] = figures.get(kind, {})
            if group not in shown:
                yield from ((f"{split}: {name}", item) for name, item in group.items())
            shown.append(group)
    yield from ((f"probe: {name}", item) for name, item in report.get("probes", {}).items())


def _rare_rate(item: dict[str, Any]) -> str:
    rate = item.get("rare_token_rate")
    return "not recorded" if rate is None else percent(rate, 2)


def shards(run: Run) -> Section:
    """How documents fill rows."""
    section = Section("shards", "Rows")
    if "shards" not in run.artifacts:
        section.missing = command(run.recipe, "shards")
        return section
    mark_stale(section, run, "shards")
    counts = run.artifacts["shards"].counts
    train, length = counts["train"], counts["seq_len"]
    padding = train["padding"] / max(train["rows"] * length, 1)
    section.lead = (
        f"{train['rows']:,} rows of {length:,} tokens to train on, {percent(padding, 3)} of them padding. Attention "
        "never crosses the border of a document."
    )
    section.tables = [
        Table(
            "Packing",
            ("rows", "documents", "tokens", "number of rows", "padding", "used", "documents cut", "bytes per token"),
            [
                (
                    name, f"{item['documents']:,}", f"{item['tokens']:,}", f"{item['rows']:,}", f"{item['padding']:,}",
                    percent(1 - item["padding"] / max(item["rows"] * length, 1), 2),
                    f"{item['split_documents']:,}", f"{item['bytes'] / max(item['tokens'], 1):.2f}",
                )
                for name, item in {**counts["sources"], "held out": counts["validation"]}.items()
            ],
        )
    ]  # fmt: skip
    section.facts = [
        Fact("targets", f"{train['targets']:,}", "tokens that are predicted, once an epoch"),
        Fact("stored as", counts["dtype"], "memory-mapped Arrow"),
    ]
    return section


def export(run: Run) -> Section:
    """The files that leave, each with its proof."""
    section = Section("export", "Files and parity")
    formats: dict[str, dict[str, Any]] = run.parity.get("formats", {})
    if not formats:
        section.missing = command(run.recipe, "export")
        return section
    mark_stale(section, run, "export")
    engines = ", ".join(f"{name} {version}" for name, version in run.parity["engines"].items())
    section.lead = f"Each file was opened by the program that will run it and compared with the checkpoint ({engines})."
    largest = max(item["size_bytes"] for item in formats.values())
    section.bars = [
        Bar(format_name(name), size(item["size_bytes"]), item["size_bytes"] / largest)
        for name, item in sorted(formats.items(), key=lambda entry: entry[1]["size_bytes"])
    ]
    section.bars_caption = "Size on disk."
    section.tables = [
        Table(
            f"Parity over {len(run.parity['prompts'])} prompts",
            ("format", "largest difference", "budget", "of", "mean KL", "same top token", "greedy text", "token ids"),
            [
                (
                    format_name(name), scientific(item["max_delta"]), scientific(item["budget"]),
                    str(item["quantity"]),
                    scientific(item["mean_kl"]), percent(item["top1_agreement"]),
                    _greedy(item), "equal" if item["token_ids_equal"] else "DIFFERENT",
                )
                for name, item in formats.items()
            ],
        )
    ]  # fmt: skip
    section.remarks += run.artifacts["export"].counts.get("notices", [])
    return section


def lineage(run: Run) -> Section:
    """Every artifact with its fingerprint and what it was made from."""
    section = Section("lineage", "Lineage")
    section.lead = "Every artifact carries a fingerprint of its content and of what it was made from."
    section.notices = list(run.broken_links)
    section.links = [link(artifact) for artifact in run.artifacts.values()]
    return section


def reproduce(run: Run) -> Section:
    """Commands, recipe and versions."""
    section = Section("reproduce", "Make it again")
    manifest = run.artifacts["train"].manifest
    commit, _, changed = str(manifest.get("git_commit") or "unknown").partition("-")
    checkout = "" if commit == "unknown" else f"git checkout {commit}"
    if changed:
        checkout += "  # and changes that were not committed"
    again = command(run.recipe, "pipeline")
    if not sys.argv[0].startswith("slm "):
        again += "  # with the recipe below as recipes/NAME/config.yaml"
    section.codes = [Code("The same run", f"{checkout}\n{again}".strip())]
    ggufs = gguf_models(run.artifacts["export"].path) if "export" in run.artifacts else []
    if ggufs:
        section.codes.append(Code("Talk to it", f"slm chat serve.model={shlex.quote(str(ggufs[0][0]))}"))
        section.codes.append(Code("Its ancestry", f"slm lineage {shlex.quote(str(ggufs[0][0]))}"))
    resolved = {name: value for name, value in run.recipe.resolved().items() if name not in UNSEEN}
    text = yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=100)
    section.codes.append(Code("The whole recipe, defaults included", text, folded=True))
    return section


def environment(run: Run) -> Section:
    """What the run depended on beside recipe and text."""
    section = Section("environment", "Environment")
    manifest = run.artifacts["train"].manifest
    section.lead = "As recorded when the checkpoint was made."
    section.facts = [
        Fact("made", str(manifest["created_at"]).replace("T", " ").removesuffix("+00:00"), "UTC"),
        Fact("seed", str(run.recipe.seed)),
        *(Fact(name, text) for name, text in manifest["versions"].items()),
        Fact("this page was made on", f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} CPU cores"),
    ]
    return section


def link(artifact: Artifact) -> Link:
    """An artifact with its size, age and parents."""
    manifest = artifact.manifest
    total = sum(record["size_bytes"] for record in manifest["files"].values())
    count = len(manifest["files"])
    made = str(manifest["created_at"]).replace("T", " ").removesuffix("+00:00")
    seed = f", seed {manifest['seed']}" if manifest["seed"] else ""  # stages that draw nothing record 0
    parents = ", ".join(f"{name} {record['fingerprint'][:12]}" for name, record in manifest["parents"].items())
    return Link(
        artifact.kind,
        artifact.fingerprint[:12],
        f"{count:,} file{'' if count == 1 else 's'}, {size(total)}, made {made} UTC{seed}",
        parents,
        artifact.path.as_posix(),
    )


def format_name(name: str) -> str:
    """A format of the export as people call it: GGUF Q4_K_M for gguf_q4_k_m."""
    kind, _, rest = name.partition("_")
    return f"{KINDS[kind]} {rest.upper()}".strip() if kind in KINDS else name


def _greedy(item: dict[str, Any]) -> str:
    if not item["greedy_compared"]:
        return "–"
    ties = f", {item['greedy_ties']} tied" if item.get("greedy_ties") else ""
    return f"{item['greedy_equal']} of {item['greedy_compared']} equal{ties}"
