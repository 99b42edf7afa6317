"""What is in a bundle."""

from __future__ import annotations

import json
import subprocess

from slm.core.artifact import MANIFEST


def test_other_programs_check_and_open_it(bundle):
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=bundle.path, capture_output=True, text=True, check=True
    )
    names = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert names == set(bundle.manifest["files"]) - {"SHA256SUMS"}
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(bundle.path / "hf").vocab_size


def test_it_holds_the_model_the_vocabulary_the_results_and_the_lineage(bundle):
    files = set(bundle.manifest["files"])
    assert {
        "hf/model.safetensors", "hf/config.json", "model-f32.gguf", "tokenizer/tokenizer.model", "release.json",
        "evaluation/results.json", "evaluation/documents.parquet", "evaluation/parity.json", "evaluation/golden.jsonl",
        "README.md", "data/README.md", "data/lengths.png", "sbom.cdx.json", "reproduce/README.md",
        "evaluation/contamination.json", "evaluation/safety.json", "SHA256SUMS",
    } <= files  # fmt: skip
    kinds = {json.loads((bundle.path / name).read_text())["kind"] for name in files if name.startswith("lineage/")}
    assert kinds == {"corpus", "tokenizer", "shards", "train", "evaluate", "export", "safety"}
    assert MANIFEST not in files


def test_copies_name_where_they_came_from(bundle):
    record = json.loads(bundle.file("release.json").read_text())
    origin = record["copies"]["model-f32.gguf"]
    export = bundle.manifest["parents"]["export"]
    assert origin == {"kind": "export", "fingerprint": export["fingerprint"], "file": "model-f32.gguf"}
