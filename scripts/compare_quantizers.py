"""Our files beside those of the programs whose forms they have, each in an environment of its own.

    python scripts/compare_quantizers.py --environments FOLDER [--only llama_cpp,autoawq,gptqmodel] [--check]

- llama_cpp: for each GGUF type and three shapes of model, with and without an importance matrix, every tensor that
  llama.cpp's quantizer (`llama_model_quantize`) makes from our F32 file, bit for bit beside ours.
- autoawq: what AutoAWQ's own layer packs from the integers, scales and zero points of a variant, bit for bit beside the
  tensors of our folder.
- gptqmodel: our folder opened by transformers with gptqmodel, its logits beside ours.

Environments are made in FOLDER where they are not there yet (llama_cpp is compiled: about eight minutes of one core;
autoawq and gptqmodel half of that, mostly torch). The last line is one JSON object; with --check the status is 1 if
anything differs by more than it may.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from slm.compress.assemble import assemble
from slm.compress.calibration import Rows
from slm.compress.config import CompressConfig, Variant
from slm.compress.files import load_compressed
from slm.compress.stream import StoredModel, compress_blocks
from slm.export import awq, gguf, importance
from slm.export.gguf_types import KINDS
from slm.export.subject import Subject
from slm.model.config import ModelConfig
from slm.model.load import save_model
from slm.model.transformer import build
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.sample import Quota
from slm.tokenizer.tokenizer import Tokenizer
from slm.tokenizer.training import train_model

THEIRS = Path(__file__).with_name("compare_quantizers_theirs.py")
PACKAGES = {
    "llama_cpp": [["llama-cpp-python==0.3.36"]],
    "autoawq": [
        ["torch==2.13.0", "transformers==5.23.0", "setuptools", "wheel"],
        ["--no-build-isolation", "autoawq==0.2.9"],
    ],
    "gptqmodel": [
        ["torch==2.13.0", "numpy==2.2.6", "setuptools", "wheel"],
        ["--no-build-isolation", "gptqmodel==7.6.0"],
    ],
    "trl": [["torch==2.13.0", "transformers==5.23.0", "trl==1.16.0"]],
}
VOCAB = 512
SHAPE = {
    "vocab_size": VOCAB, "width": 256, "layers": 9, "heads": 4, "kv_heads": 2, "head_dim": 64, "ffn_width": 768,
    "max_seq_len": 128,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied, QK-norm": {"tie_embeddings": False, "qk_norm": True},
    "rows of 192": {"tie_embeddings": False, "width": 192, "head_dim": 48, "ffn_width": 576},
}
QUANTIZED = [name for name in KINDS if name.startswith("gguf_q")]
MOST_LOGIT_DELTA = 1e-2
"""Of gptqmodel's plain torch kernel, which unpacks what the folder holds; its faster ones round activations too."""


def main() -> None:
    """Compare, print, and leave with a status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--environments", type=Path, required=True, help="folder of the environments")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--check", action="store_true", help="status 1 if something differs")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in args.only.split(","):
            found.update(PARTS[name](environment(args.environments, name), Path(place)))
    bad = [name for name, value in found.items() if name.endswith("_differing") and value]
    bad += [name for name, value in found.items() if name.endswith("_max_logit_delta") and value > MOST_LOGIT_DELTA]
    print(json.dumps({**found, "bad": bad}))
    if args.check and bad:
        raise SystemExit(1)


def environment(folder: Path, name: str) -> Path:
    """The interpreter of the environment that holds a program, made where it is missing."""
    place = folder.resolve() / name
    if not (place / "done").is_file():
        print(f"making the environment {place}", flush=True)
        venv.create(place, with_pip=True)
        for words in PACKAGES[name]:
            subprocess.run([place / "bin" / "python", "-m", "pip", "install", "-q", *words], check=True)
        (place / "done").touch()
    return place / "bin" / "python"


def theirs(python: Path, part: str, folder: Path) -> dict[str, Any]:
    """What the other side's script prints as its last line."""
    done = subprocess.run([python, THEIRS, part, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{part} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def llama_cpp(python: Path, place: Path) -> dict[str, Any]:
    """Every tensor of every type beside llama.cpp's quantizer."""
    import gguf as library
    import numpy as np

    same, differing = 0, list[str]()
    for number, (shape, subject) in enumerate([*subjects(), *weighed()]):
        folder = place / f"llama_cpp-{number}"
        folder.mkdir()
        for name in ("gguf_f32", *QUANTIZED):
            gguf.write(subject, folder, name)
        if subject.importance is not None:  # llama.cpp is given what gguf-py finds in our file
            read = library.GGUFReader(importance.write(subject.importance, gguf.gguf_name, folder)).tensors
            stored = {tensor.name: tensor.data[0] for tensor in read}
            names = [name.removesuffix(".counts") for name in stored if name.endswith(".counts")]
            means = {name: stored[f"{name}.in_sum2"] / stored[f"{name}.counts"] for name in names}
            np.savez(folder / "imatrix.npz", **means)
        (folder / "types.json").write_text(
            json.dumps({name.removeprefix("gguf_"): int(KINDS[name].file) for name in QUANTIZED})
        )
        theirs(python, "llama_cpp", folder)
        for name in QUANTIZED:
            file = f"{name.removeprefix('gguf_')}.gguf"
            ours = {tensor.name: tensor for tensor in library.GGUFReader(folder / f"model-{file}").tensors}
            other = {tensor.name: tensor for tensor in library.GGUFReader(folder / f"theirs-{file}").tensors}
            wrong = sorted(set(ours) ^ set(other))
            for tensor in set(ours) & set(other):
                mine, yours = ours[tensor], other[tensor]
                equal = mine.tensor_type == yours.tensor_type and np.array_equal(mine.data, yours.data)
                same += equal
                if not equal:
                    wrong.append(tensor)
            differing += [f"{shape}, {name}: {tensor}" for tensor in wrong]
            print(f"llama.cpp {shape:>25} {name:>12}: {len(ours) - len(wrong)} of {len(ours)} tensors bit-equal")
    return {"llama_cpp_equal": same, "llama_cpp_differing": differing}


def autoawq(python: Path, place: Path) -> dict[str, Any]:
    """AutoAWQ's packing of the same integers."""
    same, differing = 0, list[str]()
    for number, (shape, subject) in enumerate(compressed(place)):
        folder = awq.write(subject, place / f"autoawq-{number}", "awq").path
        answer = theirs(python, "autoawq", folder)
        same += answer["equal"]
        differing += [f"{shape}: {tensor}" for tensor in answer["differing"]]
        print(f"AutoAWQ {shape:>16}: {answer['equal']} tensors bit-equal, {len(answer['differing'])} not")
    return {"autoawq_equal": same, "autoawq_differing": differing}


def gptqmodel(python: Path, place: Path) -> dict[str, Any]:
    """transformers with gptqmodel, opening our folder."""
    largest = 0.0
    for number, (shape, subject) in enumerate(compressed(place)):
        folder = awq.write(subject, place / f"gptqmodel-{number}", "awq").path
        answer = theirs(python, "gptqmodel", folder)
        with torch.inference_mode():
            ours = subject.model(torch.tensor([answer["ids"]]))[0]
        delta = float((ours - torch.tensor(answer["logits"])).abs().max())
        largest = max(largest, delta)
        print(f"gptqmodel {shape:>16}: {answer['kernel']}, largest |Δ logit| {delta:.2g} of {float(ours.std()):.2g}")
    return {"gptqmodel_max_logit_delta": largest}


def subjects() -> Iterator[tuple[str, Subject]]:
    """Untrained models of three shapes with a tokenizer."""
    text = "".join(Path(file).read_text(encoding="utf-8") for file in (__file__, argparse.__file__, venv.__file__))
    quota = {"": Quota(len(text.encode()), len(text.encode()))}
    tokenizer = Tokenizer(train_model(lambda: [("", text)], quota, TokenizerConfig(vocab_size=VOCAB), "three modules"))
    for name, changes in SHAPES.items():
        yield name, Subject(name, build(ModelConfig(**{**SHAPE, **changes}), 3).eval(), tokenizer, "0" * 64)


def weighed() -> Iterator[tuple[str, Subject]]:
    """The same models with the importance of their columns over random rows."""
    from dataclasses import replace

    draw = torch.Generator().manual_seed(5)
    for name, subject in subjects():
        tokens_NT = torch.randint(0, VOCAB, (8, 64), generator=draw)
        rows = Rows(tokens_NT, torch.zeros_like(tokens_NT), torch.arange(64).expand(8, 64), "0" * 64)
        yield f"{name}, imatrix", replace(subject, importance=importance.observe(subject.model, rows, 8))


def compressed(place: Path) -> Iterator[tuple[str, Subject]]:
    """The models as integers of 4 bits."""
    from dataclasses import replace

    for shape, subject in subjects():
        variant = Variant(name="int4", method="rtn", group_size=64)
        with tempfile.TemporaryDirectory(dir=place) as folder:
            here = Path(folder)
            save_model(subject.model, here / "checkpoint")
            stored = StoredModel(here / "checkpoint")
            compress_blocks(stored, None, variant, CompressConfig(), here / "work", lambda _: None)
            assemble(stored, variant, here / "work", here / "int4")
            yield shape, replace(subject, model=load_compressed(here / "int4").eval(), variant=here / "int4")


PARTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "llama_cpp": llama_cpp, "autoawq": autoawq, "gptqmodel": gptqmodel,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
