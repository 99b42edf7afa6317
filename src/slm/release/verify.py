"""`slm verify BUNDLE [corpus=FOLDER]`: whether a bundle is what was released, on a machine that has nothing else.

In: a bundle; if named, the corpus that its held-out documents are in. Out: a table of checks, and status 1 with every
one that failed. Hashes are checked by `SHA256SUMS` and by the manifest; the manifests of the lineage by their own
checksums, by the fingerprints that they must have, and by the parents that they name; every copied file by what its
artifact's manifest says. Files that open here say the golden prompts again; those whose engine is not installed are
named as not tried. With the corpus, bits per byte are measured again and must be the published ones.

What it does not do: prove who made the bundle. Whoever can replace all of it can replace its hashes; a signature over
`SHA256SUMS`, or a hash published elsewhere, says that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slm.core.artifact import MANIFEST, Artifact, file_sha256, open_artifact
from slm.core.console import say
from slm.core.errors import ProblemsError, UserError
from slm.core.manifest import manifest_fingerprint, read_manifest
from slm.release.bundle import GOLDEN, LINEAGE, RELEASE, SUMS
from slm.release.check import Check, failed, held, require, show
from slm.release.files import belongs

USAGE = "usage: slm verify BUNDLE [corpus=FOLDER], such as slm verify runs/quickstart/release"
FETCH_AGAIN = "fetch the bundle again"
SCORE_TOLERANCE = 1e-4
"""Bits per byte: machines sum float32 in different orders, which moves the fifth digit."""


def verify(arguments: Sequence[str]) -> list[Check]:
    """Check a bundle and print what was checked; `UserError` with every check that failed."""
    settings = dict(word.split("=", 1) for word in arguments if "=" in word)
    words = [word for word in arguments if "=" not in word]
    if len(words) != 1 or set(settings) - {"corpus"}:
        raise ProblemsError([USAGE])
    folder = Path(words[0])
    checks = list(examine(folder, Path(settings["corpus"]) if "corpus" in settings else None))
    show(f"Bundle {folder}", checks)
    require("verify", checks)
    say(f"verify: {folder} is whole, {len(checks)} checks held")
    return checks


def examine(folder: Path, corpus: Path | None) -> Iterator[Check]:
    """Every check of the bundle; damaged files end it, since nothing that is read from them would count."""
    sound = True
    for check in hashes(folder):
        sound = sound and check.passed
        yield check
    if not sound:
        return
    bundle = open_artifact(folder, "release", verify="full")
    release = json.loads((folder / RELEASE).read_text(encoding="utf-8"))
    manifests, problems = read_lineage(folder)
    problems += list(unlinked(bundle, manifests))
    yield from problems or [held("lineage", f"{len(manifests)} manifests, each naming the next, back to the corpus")]
    yield copied(bundle, release, manifests)
    yield from golden(bundle, release)
    if corpus is not None:
        yield held_out(bundle, manifests, corpus)


def hashes(folder: Path) -> Iterator[Check]:
    """Every file is there with the hash that `SHA256SUMS` says, and no other file is."""
    if not (folder / SUMS).is_file() or not (folder / MANIFEST).is_file():
        yield failed("hashes", f"{folder} holds no {SUMS} and {MANIFEST}, so it is no bundle", "correct the path")
        return
    lines = [line.split("  ", 1) for line in (folder / SUMS).read_text(encoding="utf-8").splitlines()]
    expected = {line[-1]: line[0] for line in lines}
    bad = []
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            bad.append(f"{name} is missing")
        elif file_sha256(file) != digest:
            bad.append(f"{name} is damaged ({file.stat().st_size:,} bytes)")
    there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    bad += [f"{name} is no part of it" for name in sorted(there - expected.keys() - {SUMS, MANIFEST})]
    try:
        open_artifact(folder, "release", verify="full")
    except UserError as error:
        bad += [] if bad else [str(error)]
    yield failed("hashes", "; ".join(bad), FETCH_AGAIN) if bad else held("hashes", f"{len(expected)} files as released")


def read_lineage(folder: Path) -> tuple[dict[str, dict[str, Any]], list[Check]]:
    """The manifests of the ancestors by fingerprint, and what is wrong with one."""
    manifests: dict[str, dict[str, Any]] = {}
    problems = []
    for file in sorted((folder / LINEAGE).glob("*.json")):
        try:
            manifest = read_manifest(file)
        except UserError as error:
            problems.append(failed("lineage", str(error), FETCH_AGAIN))
            continue
        if manifest_fingerprint(manifest) != manifest["fingerprint"]:
            problems.append(failed("lineage", f"{file.name} has another fingerprint than it says", FETCH_AGAIN))
        manifests[manifest["fingerprint"]] = manifest
    return manifests, problems


def unlinked(bundle: Artifact, manifests: dict[str, dict[str, Any]]) -> Iterator[Check]:
    """Parents that are named and not there; a lineage that does not end at a corpus."""
    for manifest in (bundle.manifest, *manifests.values()):
        named = {name: parent["fingerprint"] for name, parent in manifest["parents"].items()}
        if sorted(named.values()) != sorted(manifest["ingredients"]["parents"].values()):
            yield failed("lineage", f"{manifest['kind']} names other parents than it was made from", FETCH_AGAIN)
        for name, fingerprint in named.items():
            if fingerprint not in manifests:
                yield failed(
                    "lineage", f"{manifest['kind']} was made from {name} {fingerprint[:12]}, absent", FETCH_AGAIN
                )
    if "corpus" not in {manifest["kind"] for manifest in manifests.values()}:
        yield failed("lineage", "no corpus is in it", FETCH_AGAIN)


def copied(bundle: Artifact, release: dict[str, Any], manifests: dict[str, dict[str, Any]]) -> Check:
    """Every model file is a copy of one that the lineage holds."""
    copies: dict[str, dict[str, str]] = release["copies"]
    bad = [
        name
        for name in bundle.manifest["files"]
        if name not in copies and any(belongs(name, kind) for kind in release["formats"])
    ]
    for name, origin in copies.items():
        files = manifests.get(origin["fingerprint"], {}).get("files", {})
        if files.get(origin["file"]) != bundle.manifest["files"].get(name):
            bad.append(name)
    if bad:
        return failed("origin of the files", f"{', '.join(bad)} came from no artifact of the lineage", FETCH_AGAIN)
    return held("origin of the files", f"{len(copies)} files as the lineage recorded them")


def golden(bundle: Artifact, release: dict[str, Any]) -> Iterator[Check]:
    """The golden prompts again, in the engines that are installed here."""
    from slm.release.golden import missing_engine

    prompts_file = bundle.file(GOLDEN)
    for name in release["formats"]:
        package = missing_engine(name)
        if package:
            yield held(f"golden prompts in {name}", f"not tried: {package} is not installed here")
            continue
        from slm.evaluate.golden import read_golden
        from slm.release.golden import check_file
        from slm.tokenizer.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(bundle.path / "tokenizer")
        outcomes = check_file(bundle.path, name, tokenizer, read_golden(prompts_file), threads=2)
        bad = [f"{one.name}: expected {one.expected}, found {one.found}" for one in outcomes if not one.passed]
        words = f"{len(outcomes) - len(bad)} of {len(outcomes)} passed"
        way_out = "compare the versions of the engines with those in evaluation/parity.json"
        if bad:
            yield failed(f"golden prompts in {name}", f"{words} ({'; '.join(bad)})", way_out)
        else:
            yield held(f"golden prompts in {name}", words)


def held_out(bundle: Artifact, manifests: dict[str, dict[str, Any]], folder: Path) -> Check:
    """Bits per byte of the published weights on the held-out documents of the corpus."""
    name = "bits per byte, measured again"
    published = json.loads(bundle.file("evaluation/results.json").read_text(encoding="utf-8"))["validation"]
    corpus = open_artifact(folder, "corpus", verify="full")
    released = next(one for one in manifests.values() if one["kind"] == "corpus")
    if held_out_files(corpus.manifest) != held_out_files(released):
        return failed(
            name, f"{folder} holds other held-out documents than the corpus of this lineage",
            "correct the path, or make the corpus by the recipe in reproduce/",
        )  # fmt: skip
    if not (bundle.path / "hf").is_dir():
        return held(name, "not tried: the bundle has no hf")
    found = bits_per_byte(bundle, corpus, published)
    words = f"{found:.6f}, published {published['bits_per_byte']:.6f}"
    if abs(found - published["bits_per_byte"]) > SCORE_TOLERANCE:
        return failed(name, words, "compare the versions in the manifests")
    return held(name, words)


def held_out_files(manifest: dict[str, Any]) -> dict[str, Any]:
    """The files with held-out documents: elsewhere a corpus has other paths in its settings, but these bytes."""
    return {name: record for name, record in manifest["files"].items() if name.startswith("validation-")}


def bits_per_byte(bundle: Artifact, corpus: Artifact, published: dict[str, Any]) -> float:
    """The figure of the bundle's Hugging Face weights, on the documents and windows that were published."""
    import numpy as np
    import pyarrow.parquet as pq

    from slm.corpus import read_documents
    from slm.evaluate.score import score
    from slm.model.hugging_face import from_pretrained
    from slm.tokenizer.tokenizer import Tokenizer

    chosen = set(pq.read_table(bundle.file("evaluation/documents.parquet"), columns=["id"])["id"].to_pylist())
    texts = [document.text for document in read_documents(corpus, "validation") if document.id in chosen]
    tokenizer = Tokenizer.load(bundle.path / "tokenizer")
    ids = [np.array(tokenizer.encode(text, bos=True, eos=True), dtype=np.int32) for text in texts]
    nats_D = score(
        from_pretrained(bundle.path / "hf").eval(), ids, context=published["context_tokens"],
        stride=published["stride_tokens"], batch_tokens=4_096, precision=published["precision"],
        kv_cache=published["kv_cache"],
    )  # fmt: skip
    return float(nats_D.sum()) / math.log(2) / sum(len(text.encode()) for text in texts)
