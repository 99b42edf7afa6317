"""The bill of materials: by CycloneDX's own schema, and beside what is really installed and in the bundle."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys

import pytest

from slm.release.sbom import plain


@pytest.fixture(scope="module")
def bill(bundle):
    return json.loads(bundle.file("sbom.cdx.json").read_text())


def test_it_keeps_the_schema_of_cyclonedx(bill):
    schema = pytest.importorskip("cyclonedx.schema", reason="cyclonedx-python-lib is not installed")
    pytest.importorskip("jsonschema", reason="cyclonedx-python-lib is there without its extra json-validation")
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps({**bill, "specVersion": 7})) is not None


def test_every_installed_package_is_in_it_with_its_version(bill):
    found = {one["name"]: one["version"] for one in bill["components"] if one["type"] == "library"}
    for name in ("torch", "numpy", "pydantic", "transformers", "safetensors"):
        assert found[name] == importlib.metadata.version(name)
    program = "import importlib.metadata as m; print(*(one.metadata['Name'] for one in m.distributions()), sep='\\n')"
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert set(found) == {plain(name) for name in listed}
    numpy = next(one for one in bill["components"] if one["name"] == "numpy")
    assert numpy["purl"] == f"pkg:pypi/numpy@{found['numpy']}"
    assert numpy["licenses"][0]["expression"].startswith("BSD-3-Clause")


def test_the_model_names_its_files_with_the_hashes_of_the_bundle(bill, bundle):
    model = bill["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == ("machine-learning-model", "tiny", "v1.0")
    files = {one["name"]: one["hashes"][0]["content"] for one in model["components"]}
    assert files == {
        name: bundle.manifest["files"][name]["sha256"] for name in ("hf/model.safetensors", "model-f32.gguf")
    }


def test_sources_are_data_with_licences_and_everything_hangs_together(bill):
    data = [one for one in bill["components"] if one["type"] == "data"]
    assert [(one["name"], one["licenses"]) for one in data] == [("code", [{"expression": "MIT"}])]
    refs = {one["bom-ref"] for one in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    depends = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    assert all(ref in refs and set(needed) <= refs for ref, needed in depends.items())
    assert "data:code" in depends["model"]
    torch = next(ref for ref in refs if ref.startswith("pkg:pypi/torch@"))
    assert any(ref.startswith("pkg:pypi/sympy@") for ref in depends[torch])
    assert not re.search("/tmp|/root|/home", json.dumps(bill["components"][:50]))
