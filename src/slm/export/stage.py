"""The export stage: newest checkpoint in, files and `parity.json` out.

Every format is written, read back and proved before anything is published; one that misses its budget
stops the export, and `slm.core.artifact` leaves no trace of it. Peak memory is twice the model in
float32 (ours and, while its folder is proved, transformers'); llama.cpp maps its file in a process of
its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from slm.core.artifact import MANIFEST, Artifact, Draft, Spec, file_sha256, make, newest, open_artifact, require_parent
from slm.core.console import Progress, say
from slm.core.errors import DamagedError, UserError
from slm.core.flavours import CHECKPOINT
from slm.core.lineage import lineage
from slm.core.model_files import parts_of
from slm.core.provenance import processor_name
from slm.evaluate.stage import task_inputs
from slm.export import EXPORTERS
from slm.export.config import OF_INTEGERS, Format
from slm.export.subject import Dataset, Exporter, Subject

if TYPE_CHECKING:
    from slm.compress.measure import Cost
    from slm.export.parity import Parity, Reference
    from slm.export.quality import Judge
    from slm.recipe import Recipe

PARITY = "parity.json"
ENGINE_PACKAGES = {
    "hf": ("transformers",),
    "awq": ("transformers",),
    "gguf": ("gguf", "xllamacpp"),
    "onnx": ("onnx", "onnxruntime"),
}
"""What each kind of format is written and proved with."""
EXTRAS = {"onnx": "'slm[onnx]'", "onnxruntime": "'slm[onnx]'"}
"""What installs a package that slm does not always bring."""
ENGINES = {"hf": "transformers", "awq": "transformers, dequantized", "gguf": "llama.cpp", "onnx": "ONNX Runtime"}
"""What opens each kind of format."""
CARDS: dict[Format, str] = {"hf": "float32", "awq": "matrices of 4 bits in AutoAWQ's form, the rest float16"}
"""Folders that may be pushed to a hub as they are, and what their weights are."""


class Made(NamedTuple):
    """One format, written and proved."""

    parity: Parity
    path: Path
    cost: Cost | None
    """On held-out text, where it was measured."""
    tasks: list[dict[str, Any]]


def run(recipe: Recipe) -> Artifact:
    """The export of the recipe's newest checkpoint; nothing heavy is imported if it is there already."""
    checkpoint, tokenizer = recipe.artifact("train"), recipe.artifact("tokenizer")
    require_parent(checkpoint, "tokenizer", tokenizer)
    golden = Path(recipe.evaluate.golden) if recipe.evaluate.golden else None
    inputs: dict[str, Any] = {"name": recipe.run, "golden": _golden_hash(golden)}
    if recipe.export.quality.tasks:
        inputs["tasks"] = {name: task_inputs(recipe, name) for name in recipe.evaluate.tasks}
    parents = {"train": checkpoint, "tokenizer": tokenizer}
    if _variants(recipe):
        parents["compress"] = _compressed(recipe, checkpoint)
    corpus = _held_out_corpus(recipe)
    if corpus is not None:
        parents["corpus"] = corpus
    if recipe.export.imatrix:
        parents["shards"] = recipe.artifact("shards")
        require_parent(checkpoint, "shards", parents["shards"])
        calibration = recipe.compress.calibration
        inputs |= {"calibration": calibration.identity(), "text": calibration.text_hash(), "seed": recipe.seed}
    spec = Spec("export", recipe.export, parents, inputs)

    def build(draft: Draft) -> None:
        _build(draft, recipe, parents, golden)

    return make(recipe.folder("export"), spec, build, redo=recipe.redo)


def golden_prompts(path: Path) -> list[str]:
    """The prompts of a JSON Lines table of golden prompts."""
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(str(json.loads(line)["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} line {number} is not a JSON object with a prompt ({error!r}); correct it, or leave "
                "evaluate.golden empty"
            ) from error
    return prompts


def engine_packages(formats: Sequence[Format]) -> list[str]:
    """The packages that `formats` are written and proved with; one that is not installed is refused."""
    needed = {package: name for name in formats for package in ENGINE_PACKAGES[name.partition("_")[0]]}
    for package, name in needed.items():
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"export.formats ({name}) needs the package {package}, which is not installed; pip install "
                f"{EXTRAS.get(package, package)}, or leave {name} out of export.formats"
            )
    return list(needed)


def datasets(checkpoint: Artifact) -> tuple[Dataset, ...]:
    """The sources of the text that the checkpoint was trained on, as its corpus recorded them."""
    for _, ancestor in lineage(checkpoint.path):
        if isinstance(ancestor, Artifact) and ancestor.kind == "corpus":
            sources = ancestor.counts.get("sources", {})
            return tuple(
                Dataset(name, facts.get("licence", ""), facts.get("origin", "")) for name, facts in sources.items()
            )
    return ()


def _build(draft: Draft, recipe: Recipe, parents: Mapping[str, Artifact], golden: Path | None) -> None:
    from slm.export.parity import Reference, show

    checkpoint, packages = parents["train"], engine_packages(recipe.export.formats)
    prompts = list(dict.fromkeys([*recipe.export.prompts, *(golden_prompts(golden) if golden else [])]))
    subject = _subject(recipe, checkpoint, parents["tokenizer"])
    judge = _judge(recipe, parents, subject)
    found: dict[Format, Made] = {}
    for formats, of_formats, like in _subjects(recipe, parents, subject):
        for name in formats:
            _exporter(name).refuse_unsupported(of_formats.model.config)
        if recipe.export.imatrix and any(name.startswith("gguf_q") for name in formats):
            of_formats = _weighed(recipe, parents, of_formats, draft)
        reference = Reference(like, recipe.export, prompts)
        found.update({name: _export(name, of_formats, reference, judge, draft.path, recipe) for name in formats})
    results = [found[name].parity for name in recipe.export.formats]
    show(results)
    for notice in (notice for result in results for notice in result.notices):
        say(f"export: {notice}")
    proof = {
        "engines": {name: importlib.metadata.version(name) for name in packages},
        "prompts": prompts,
        "formats": {result.format: result.as_dict() for result in results},
    }
    (draft.path / PARITY).write_text(json.dumps(proof, indent=1, ensure_ascii=False), encoding="utf-8")
    draft.counts["parity"] = proof["formats"]
    draft.counts["notices"] = [notice for result in results for notice in result.notices]
    draft.counts["step"] = checkpoint.counts.get("step")
    draft.counts["flavours"] = _flavours(recipe, found, draft.path)
    _time(draft, recipe, checkpoint, subject)
    for name in CARDS:
        if name in found:
            from slm.export.card import write_card

            facts = {**draft.counts["flavours"][name], "form": CARDS[name]}
            write_card(draft.path / name, subject, facts, checkpoint.counts, recipe.release.licence)


def _flavours(recipe: Recipe, found: Mapping[Format, Made], folder: Path) -> dict[str, dict[str, Any]]:
    """What there is to say of each file, its speed left out; `UserError` if one costs more than its budget."""
    flavours: dict[str, dict[str, Any]] = {}
    for name in recipe.export.formats:
        parity, path, cost, on_tasks = found[name]
        flavours[name] = {
            "file": path.relative_to(folder).as_posix(),
            "engine": ENGINES[name.partition("_")[0]],
            "size_bytes": parity.size_bytes,
            **({"cost": asdict(cost)} if cost else {}),
            **({"tasks": on_tasks} if on_tasks else {}),
        }
    if all("cost" in flavour for flavour in flavours.values()):
        from slm.export.quality import require_budgets, show

        show(flavours)
        require_budgets(recipe.export.quality, {name: one.cost for name, one in found.items() if one.cost})
    return flavours


def _time(draft: Draft, recipe: Recipe, checkpoint: Artifact, subject: Subject) -> None:
    """Time the files beside the checkpoint, where the recipe asks for it."""
    from slm.serve.timing import Opening, time_all

    config = recipe.export
    if not config.timing.turns:
        return
    openings = {CHECKPOINT: Opening(checkpoint.path)}
    openings |= {name: Opening(draft.path / found["file"]) for name, found in draft.counts["flavours"].items()}
    shape = subject.model.config
    with Progress("export: timing", len(openings) * config.timing.turns, "files") as progress:
        speeds = time_all(
            openings, config.timing, threads=config.threads, vocab_size=shape.vocab_size, context=shape.max_seq_len,
            seed=recipe.seed, told=lambda: progress.advance(1),
        )  # fmt: skip
    draft.counts[CHECKPOINT] = {
        "size_bytes": _size_bytes(checkpoint.path, "model-*.safetensors"),
        "speed": speeds[CHECKPOINT],
    }
    for name, found in draft.counts["flavours"].items():
        found["speed"] = speeds[name]
    draft.counts["timing"] = {**config.timing.resolved(), "threads": config.threads, "processor": processor_name()}


def _judge(recipe: Recipe, parents: Mapping[str, Artifact], subject: Subject) -> Judge | None:
    if "corpus" not in parents:
        if recipe.export.quality.documents:
            say("export: no held-out text is at hand, so what each file costs in quality was not measured")
        return None
    from slm.export.quality import judge

    return judge(recipe, parents["corpus"], parents["tokenizer"], parents["train"], subject)


def _held_out_corpus(recipe: Recipe) -> Artifact | None:
    """The run's corpus, where it holds text out and files are to be measured on it."""
    folder = newest(recipe.place("corpus"))
    if not recipe.export.quality.documents or not (folder / MANIFEST).is_file():
        return None
    corpus = open_artifact(folder, "corpus", verify=recipe.verify)
    return corpus if corpus.counts.get("validation", {}).get("documents") else None


def _subjects(
    recipe: Recipe, parents: Mapping[str, Artifact], subject: Subject
) -> Iterator[tuple[list[Format], Subject, Subject]]:
    """What is written, each with its formats and the model that they are held against.

    From the checkpoint's model, or GGUF from a scaled variant, held against the checkpoint too, because scaling changes
    no output; from integers, held against the model that these stand for.
    """
    variants = _variants(recipe)
    plain = [name for name in recipe.export.formats if name not in variants]
    if plain:
        yield plain, subject, subject
    for variant in dict.fromkeys(variants.values()):
        from slm.compress.files import load_compressed

        folder = parents["compress"].path / variant
        carried = replace(subject, model=load_compressed(folder), variant=folder)
        formats = [name for name in recipe.export.formats if variants.get(name) == variant]
        yield formats, carried, carried if formats[0] in OF_INTEGERS else subject


def _variants(recipe: Recipe) -> dict[Format, str]:
    """The variant of the compress stage that each format is made from, of those that are."""
    found: dict[Format, str] = {name: recipe.export.variant for name in recipe.export.formats if name in OF_INTEGERS}
    if recipe.export.gguf_variant:
        found |= {name: recipe.export.gguf_variant for name in recipe.export.formats if name.startswith("gguf_")}
    return found


def _weighed(recipe: Recipe, parents: Mapping[str, Artifact], subject: Subject, draft: Draft) -> Subject:
    """The subject with the importance of its columns over the calibration text, which is written down too."""
    from slm.compress.calibration import calibration_rows
    from slm.export import importance
    from slm.export.gguf import gguf_name

    rows = calibration_rows(recipe, parents["shards"], parents["tokenizer"], subject.model.config.max_seq_len)
    found = importance.observe(subject.model.float().eval(), rows, recipe.compress.calibration.batch_rows)
    importance.write(found, gguf_name, draft.path)
    draft.counts["imatrix"] = {"tokens": found.tokens, "rows": found.rows, "hash": found.hash}
    return replace(subject, importance=found)


def _compressed(recipe: Recipe, checkpoint: Artifact) -> Artifact:
    """What the compress stage made of the checkpoint, among it the variants that are exported."""
    found = recipe.artifact("compress")
    require_parent(found, "train", checkpoint)
    methods = {name: facts["settings"]["method"] for name, facts in found.counts["variants"].items()}
    for name, variant in _variants(recipe).items():
        key = "variant" if name in OF_INTEGERS else "gguf_variant"
        if variant not in methods:
            raise UserError(
                f"export.{key} ({variant}) must be a variant in {found.path} ({', '.join(methods)}); name one of them, "
                "or add it to compress.variants"
            )
        if (methods[variant] == "scale") != (key == "gguf_variant"):
            raise UserError(
                f"export.{key} ({variant}) is of method {methods[variant]}, but {name} is made from "
                f"{'integers' if key == 'variant' else 'floats that method scale prepared'}; name another variant"
            )
    return found


def _subject(recipe: Recipe, checkpoint: Artifact, tokenizer: Artifact) -> Subject:
    from slm.model.load import load_model
    from slm.tokenizer.tokenizer import Tokenizer

    loaded, model = Tokenizer.load(tokenizer.path), load_model(checkpoint.path, attention="sdpa")
    recorded = tokenizer.counts.get("hash")
    if recorded != loaded.hash:
        raise DamagedError(
            f"{tokenizer.path} holds tokenizer {loaded.hash[:12]}, but its manifest records {str(recorded)[:12]}; "
            "make the tokenizer again"
        )
    if loaded.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{checkpoint.path} has model.vocab_size {model.config.vocab_size:,}, but {tokenizer.path} has "
            f"{loaded.vocab_size:,} ids; point artifacts.tokenizer at the one that the model was trained with"
        )
    if not checkpoint.counts.get("finished", True):
        say(f"export: {checkpoint.path} is from a training that has not ended (step {checkpoint.counts.get('step')})")
    sources = datasets(checkpoint)
    if not sources:
        say("export: the corpus behind the checkpoint is not at hand, so the files name no sources and no licence")
    most = recipe.export.max_gguf_bytes
    return Subject(
        recipe.run, model, loaded, checkpoint.fingerprint, sources, recipe.export.max_shard_bytes, max_gguf_bytes=most
    )


def _export(
    name: Format, subject: Subject, reference: Reference, judge: Judge | None, folder: Path, recipe: Recipe
) -> Made:
    """Write one format, prove it, and measure what it costs."""
    from slm.export.parity import prove

    exporter = _exporter(name)
    written = exporter.write(subject, folder, name)
    with exporter.engine(
        written.path,
        end_ids=subject.end_ids,
        context_tokens=reference.context_tokens,
        threads=recipe.export.threads,
    ) as engine:
        result = prove(reference, engine, recipe.export, name, sum(map(_size_bytes, parts_of(written.path))))
        cost, on_tasks = None, list[dict[str, Any]]()
        if judge is not None:
            with Progress(f"export: {name}: measuring", judge.text.targets, "tokens") as progress:
                cost = judge.cost(engine, progress.advance)
            on_tasks = judge.on_tasks(engine)
    result.notices += written.notices
    result.facts.update(written.facts)
    return Made(result, written.path, cost, on_tasks)


def _exporter(name: Format) -> Exporter:
    return cast(Exporter, importlib.import_module(EXPORTERS[name]))


def _golden_hash(path: Path | None) -> str:
    if path is None:
        return ""
    if not path.is_file():
        raise UserError(
            f"evaluate.golden ({path}) is not a file; correct the path, or set evaluate.golden= to leave it out"
        )
    return file_sha256(path)


def _size_bytes(path: Path, pattern: str = "*") -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob(pattern)) if file.is_file())
