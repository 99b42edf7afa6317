"""What a release is made of, as CycloneDX 1.6 JSON (ECMA-424): installed packages, the model, its files, its data.

In: the evidence and the bundle's folder. Out: a dictionary. The model is the component that the bill describes, of
type `machine-learning-model` with a hash for each of its files; each source of text is a component of type `data` with
its licence; each installed package a `library` with its package URL, its licence where its metadata has an SPDX one,
and what it depends on. The bill is the same for the same environment and bundle: it has no serial number of its own
and the time is that of the checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from slm import __version__
from slm.core.artifact import file_sha256
from slm.release.evidence import Evidence
from slm.release.licences import canonical

SPEC_VERSION = "1.6"
MODEL = "model"


def bill_of_materials(evidence: Evidence, folder: Path) -> dict[str, Any]:
    """The bill of a bundle whose model files are in `folder`."""
    packages = list(libraries())
    sources = list(datasets(evidence))
    parts = [one["bom-ref"] for one in sources]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "timestamp": evidence.artifacts["train"].manifest["created_at"],
            "tools": {"components": [{"type": "application", "name": "slm", "version": __version__}]},
            "component": model(evidence, folder),
        },
        "components": [*packages, *sources],
        "dependencies": [
            {
                "ref": MODEL,
                "dependsOn": sorted([*parts, *(one["bom-ref"] for one in packages if one["name"] == "slm")]),
            },
            *edges(packages),
        ],
    }


def model(evidence: Evidence, folder: Path) -> dict[str, Any]:
    """The model with its files."""
    files = [
        file for file in sorted(folder.rglob("*")) if file.suffix in (".gguf", ".safetensors", ".onnx", ".onnx_data")
    ]
    licence = canonical(evidence.recipe.release.licence)
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": evidence.recipe.run,
        "version": str(evidence.repository.record["tag"]),
        **({"licenses": [{"expression": licence}]} if licence else {}),
        "components": [
            {
                "type": "file",
                "bom-ref": f"file:{file.relative_to(folder).as_posix()}",
                "name": file.relative_to(folder).as_posix(),
                "hashes": [{"alg": "SHA-256", "content": file_sha256(file)}],
            }
            for file in files
        ],
    }


def datasets(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The sources of the text."""
    corpus = evidence.artifacts["corpus"]
    for name, facts in corpus.counts["sources"].items():
        licence = canonical(facts["licence"])
        yield {
            "type": "data",
            "bom-ref": f"data:{name}",
            "name": name,
            "version": corpus.fingerprint,
            "description": f"{facts['documents']:,} documents from {facts['origin']}",
            **({"licenses": [{"expression": licence}]} if licence else {}),
            "data": [{"type": "dataset", "name": name}],
        }


def libraries() -> Iterator[dict[str, Any]]:
    """Every installed package once, by name; not the copies that setuptools carries and puts on the path."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for one in importlib.metadata.distributions(path=[place for place in sys.path if Path(place).name != "_vendor"]):
        if one.metadata["Name"]:
            found.setdefault(plain(one.metadata["Name"]), one)
    for name, one in sorted(found.items()):
        licence = canonical(str(one.metadata.json.get("license_expression", "")))
        yield {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{one.version}",
            "name": name,
            "version": one.version,
            "purl": f"pkg:pypi/{name}@{one.version.replace('+', '%2B')}",
            **({"licenses": [{"expression": licence}]} if licence else {}),
        }


def edges(packages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What each package needs of the others, extras left out."""
    refs = {one["name"]: one["bom-ref"] for one in packages}
    for name, ref in refs.items():
        needed = {plain(one.name) for one in requirements(name)}
        yield {"ref": ref, "dependsOn": sorted(refs[other] for other in needed & refs.keys() - {name})}


def requirements(name: str) -> Iterator[Requirement]:
    """The requirements of a package that hold in this environment; lines that are none are passed over."""
    for line in importlib.metadata.distribution(name).requires or ():
        try:
            one = Requirement(line)
        except InvalidRequirement:
            continue
        if one.marker is None or one.marker.evaluate({"extra": ""}):
            yield one


def plain(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
