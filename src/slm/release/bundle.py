"""The bundle: everything that somebody needs who has only the bundle.

Files that the run made are copied, never made again, so their hashes are those of the manifests in `lineage/`:

    hf/, model-*.gguf       the model files of the chosen formats
    tokenizer/              the frozen vocabulary
    README.md               the model card, in the form of the Hugging Face hub
    data/                   the data card, in the same form
    evaluation/             results, figures per document, parity proofs, golden prompts, safety, contamination
    reproduce/              ids of all items, seeds, settings, and the commands that give each number again
    sbom.cdx.json           installed packages, model and data, as CycloneDX 1.6
    lineage/                the manifests of all ancestors, back to the corpus
    release.json            the gate's checks, commit and tag, and which file came from which artifact
    SHA256SUMS              every file but itself and manifest.json; for sha256sum -c
    manifest.json           as of every artifact; written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from slm import __version__
from slm.core.artifact import MANIFEST, Artifact, Draft, file_sha256
from slm.corpus.decontamination.report import FILE as CONTAMINATION
from slm.release.cards import write_cards
from slm.release.check import Check
from slm.release.evidence import Evidence
from slm.release.files import belongs
from slm.release.pack import write_pack
from slm.release.sbom import bill_of_materials

RELEASE, SUMS, LINEAGE, GOLDEN = "release.json", "SHA256SUMS", "lineage", "evaluation/golden.jsonl"
SBOM = "sbom.cdx.json"


def write_bundle(draft: Draft, evidence: Evidence, checks: list[Check]) -> None:
    """Write every file of the bundle into the draft."""
    origins = dict(copies(evidence))
    for name, (artifact, file) in origins.items():
        _copy(artifact.file(file), draft.path / name)
    assert evidence.golden is not None
    _copy(evidence.golden, draft.path / GOLDEN)
    for ancestor in evidence.ancestors:
        _copy(ancestor.path / MANIFEST, draft.path / LINEAGE / f"{ancestor.kind}-{ancestor.fingerprint[:12]}.json")
    record = {
        "name": evidence.recipe.run,
        "slm": __version__,
        **evidence.repository.record,
        "licence": evidence.recipe.release.licence,
        "formats": list(evidence.formats),
        "checks": [asdict(check) for check in checks],
        "copies": {
            name: {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "file": file}
            for name, (artifact, file) in origins.items()
        },
    }
    write_json(draft.path / RELEASE, record)
    write_cards(evidence, draft.path)
    write_pack(evidence, draft.path / "reproduce")
    write_json(draft.path / SBOM, bill_of_materials(evidence, draft.path))
    (draft.path / SUMS).write_text(sums(draft.path), encoding="utf-8")
    draft.counts.update(formats=list(evidence.formats), checks=len(checks), **evidence.repository.record)


def copies(evidence: Evidence) -> Iterator[tuple[str, tuple[Artifact, str]]]:
    """Each copied file's name in the bundle, and the artifact and the file that it is a copy of."""
    export, evaluate = evidence.artifacts["export"], evidence.artifacts["evaluate"]
    for name in evidence.formats:
        files = [file for file in export.manifest["files"] if belongs(file, name)]
        assert files, f"{name}: no file of the export lies where `files` expects it"
        yield from ((file, (export, file)) for file in files)
    tokenizer, corpus = evidence.artifacts["tokenizer"], evidence.artifacts["corpus"]
    yield from ((f"tokenizer/{file}", (tokenizer, file)) for file in tokenizer.manifest["files"])
    yield from ((f"evaluation/{file}", (evaluate, file)) for file in ("results.json", "documents.parquet"))
    yield "evaluation/parity.json", (export, "parity.json")
    yield "evaluation/safety.json", (evidence.artifacts["safety"], "results.json")
    yield f"evaluation/{CONTAMINATION}", (corpus, CONTAMINATION)


def sums(folder: Path) -> str:
    """The lines that `sha256sum -c` reads, of every file below `folder`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    return "".join(f"{file_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)


def write_json(path: Path, content: object) -> None:
    """JSON as all files of the bundle have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
