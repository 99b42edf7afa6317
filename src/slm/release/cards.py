"""The model card and the data card, in the form of the Hugging Face hub.

In: the evidence of a release. Out: `README.md` with the front matter that the hub's search reads (licence, data sets,
results) and every figure with its interval, its proof and its limits; `data/README.md` as `slm card` makes it. Figures
come from the artifacts; nothing is written by hand, so nothing can be left from another model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from slm.core.artifact import Artifact
from slm.core.console import quantity, size
from slm.core.model_files import gguf_model
from slm.model.config import ModelConfig
from slm.model.counting import num_parameters
from slm.recipe import Stage
from slm.release.evidence import Evidence, read_json
from slm.report.card import PLOT, draw_lengths, hub_card
from slm.report.gather import gather_data
from slm.report.hub import fenced, hub_datasets, languages, licence_fields
from slm.report.markdown import markdown
from slm.report.page import Code, Fact, Section, Table, compact
from slm.report.safety import measures
from slm.report.scan import Scan, scan


def write_cards(evidence: Evidence, folder: Path) -> None:
    """Write both cards below `folder`."""
    found = scan(evidence.artifacts["corpus"])
    (folder / "README.md").write_text(model_card(evidence, found), encoding="utf-8")
    (folder / "data").mkdir(exist_ok=True)
    data: dict[Stage, Artifact] = {
        "corpus": evidence.artifacts["corpus"],
        "tokenizer": evidence.artifacts["tokenizer"],
    }
    (folder / "data" / "README.md").write_text(hub_card(gather_data(evidence.recipe, data), found), encoding="utf-8")
    draw_lengths(found, folder / "data" / PLOT)


def model_card(evidence: Evidence, found: Scan) -> str:
    """The model card."""
    parameters = num_parameters(shape(evidence))
    step = evidence.artifacts["train"].counts
    headline = [
        Fact("parameters", compact(parameters)),
        Fact("trained on", f"{compact(step['tokens'])} tokens"),
        Fact("context", f"{shape(evidence).max_seq_len:,} tokens"),
        Fact("release", str(evidence.repository.record["tag"]), f"commit {evidence.repository.commit[:12]}"),
    ]
    kind = evidence.artifacts["train"].section["objective"]["kind"]
    trained = "It continues text; it was not trained to follow instructions or to talk."
    summary = f"A language model of {compact(parameters)} parameters. " + (
        trained if kind == "next_token" else f"Trained with the objective {kind}."
    )
    judged = measures(read_json(evidence.artifacts["safety"], "results.json"))
    sections = [use(evidence), files(evidence), results(evidence), judged, data(evidence), limits(evidence)]
    return front_matter(evidence, found) + markdown(
        evidence.recipe.run, "model card", summary, headline, [*sections, checking(evidence)], images={}
    )


def shape(evidence: Evidence) -> ModelConfig:
    """The model's architecture, as the checkpoint recorded it."""
    return ModelConfig.model_validate(evidence.artifacts["train"].section["model"])


def front_matter(evidence: Evidence, found: Scan) -> str:
    """The YAML block at the head of the card."""
    from huggingface_hub import EvalResult, ModelCardData

    validation = evidence.results["validation"]
    measured = [("held-out text of the corpus", "bits_per_byte", validation["bits_per_byte"])]
    measured += [
        (one["task"], one["metric"], one["value"]) for one in evidence.results.get("tasks", {}).get("metrics", ())
    ]
    card = ModelCardData(
        language=languages(found) or None,
        library_name="transformers" if "hf" in evidence.formats else None,
        pipeline_tag="text-generation",
        tags=[tag for tag in ("gguf", "onnx") if any(name.startswith(tag) for name in evidence.formats)] or None,
        datasets=hub_datasets(evidence.artifacts["corpus"].section["sources"]) or None,
        model_name=evidence.recipe.run,
        eval_results=[
            EvalResult("text-generation", name.replace(" ", "-"), name, metric, value)
            for name, metric, value in measured
        ],
        **licence_fields([evidence.recipe.release.licence]),
    )
    return fenced(str(card.to_yaml()))


def use(evidence: Evidence) -> Section:
    """How to run each file."""
    section = Section("use", "Use")
    if "hf" in evidence.formats:
        section.codes.append(
            Code(
                "With transformers",
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                'tokenizer = AutoTokenizer.from_pretrained("hf")\n'
                'model = AutoModelForCausalLM.from_pretrained("hf")\n'
                'ids = tokenizer("Once", return_tensors="pt").input_ids\n'
                "print(tokenizer.decode(model.generate(ids, max_new_tokens=32)[0]))\n",
            )
        )
    ggufs = [name.partition("_")[2] for name in evidence.formats if name.startswith("gguf")]
    if ggufs:
        file = gguf_model(evidence.artifacts["export"].path, ggufs[-1]).name
        section.codes.append(Code("With llama.cpp", f"llama-cli -m {file} -p Once -n 32\n"))
    folders = [name for name in evidence.formats if name.startswith("onnx")]
    if folders:
        section.codes.append(
            Code(
                "With ONNX Runtime (optimum-onnx)",
                "from optimum.onnxruntime import ORTModelForCausalLM\nfrom transformers import AutoTokenizer\n\n"
                f'tokenizer = AutoTokenizer.from_pretrained("{folders[-1]}")\n'
                f'model = ORTModelForCausalLM.from_pretrained("{folders[-1]}")\n'
                'ids = tokenizer("Once", return_tensors="pt").input_ids\n'
                "print(tokenizer.decode(model.generate(ids, max_new_tokens=32)[0]))\n",
            )
        )
    return section


def files(evidence: Evidence) -> Section:
    """The files and how close each is to the checkpoint."""
    section = Section("files", "Files")
    section.lead = "Each was opened by the engine that reads it and compared with the checkpoint in float32."
    proofs = evidence.artifacts["export"].counts["parity"]
    section.tables = [
        Table(
            "",
            ("file", "size", "token ids equal", "largest difference", "of", "budget"),
            [
                (
                    name, size(proofs[name]["size_bytes"]), "yes" if proofs[name]["token_ids_equal"] else "no",
                    quantity(proofs[name]["max_delta"]), proofs[name]["quantity"], quantity(proofs[name]["budget"]),
                )
                for name in evidence.formats
            ],
        )
    ]  # fmt: skip
    return section


def results(evidence: Evidence) -> Section:
    """Quality, beside what it must beat."""
    found, section = evidence.results, Section("results", "Evaluation")
    validation = found["validation"]
    low, high = validation["interval_95"]
    section.lead = (
        f"Bits per UTF-8 byte of {validation['documents']:,} held-out documents ({validation['bytes']:,} bytes), "
        f"windows of {validation['context_tokens']:,} tokens, {validation['precision']}. Lower is better."
    )
    rows = [("this model", f"{validation['bits_per_byte']:.4f}", f"{low:.4f} to {high:.4f}")]
    rows += [
        (name.removesuffix("_bits_per_byte"), f"{value:.4f}", "")
        for name, value in found["baselines"].items()
        if value is not None
    ]
    section.tables = [Table("", ("", "bits per byte", "95 % interval"), rows)]
    metrics = found.get("tasks", {}).get("metrics", ())
    if metrics:
        section.tables.append(
            Table(
                "Tasks",
                ("task", "metric", "value", "95 % interval", "chance", "items", "on clean ones", "95 % interval"),
                [
                    (
                        one["task"], one["metric"], _shown(one["value"]), _range(one["interval_95"]),
                        _shown(one["chance"]), f"{one['items']:,}", _shown(one["clean_value"]),
                        _range(one["clean_interval_95"]),
                    )
                    for one in metrics
                ],
            )
        )  # fmt: skip
    controls = found.get("tasks", {}).get("controls", ())
    if controls:
        section.tables.append(
            Table(
                "The same items, asked of models that know nothing: fresh weights (random), single tokens (unigram)",
                ("task", "metric", "control", "value", "95 % interval", "model - control", "95 % interval of that"),
                [
                    (
                        one["task"], one["metric"], one["control"], _shown(one["value"]), _range(one["interval_95"]),
                        _shown(one["difference"]), _range(one["difference_95"]),
                    )
                    for one in controls
                ],
            )
        )  # fmt: skip
    section.facts = [Fact("golden prompts passed", f"{found['golden']['passed']:,}", "in each of the files above")]
    return section


def data(evidence: Evidence) -> Section:
    """What it was trained on."""
    section, counts = Section("data", "Training data"), evidence.artifacts["corpus"].counts
    section.lead = "The data card is in data/README.md."
    section.tables = [
        Table(
            "",
            ("source", "documents", "UTF-8", "licence", "origin"),
            [
                (name, f"{one['documents']:,}", size(one["bytes"]), one["licence"], one["origin"])
                for name, one in counts["sources"].items()
            ],
        )
    ]
    return section


def limits(evidence: Evidence) -> Section:
    """What the figures do not say."""
    section = Section("limits", "Limits")
    section.remarks = [
        "Figures are of the text and the prompts named here; other text, other languages and longer contexts were not "
        "measured.",
        "What the model says may be wrong, and what it read may come back word for word; check it before use.",
    ]
    corpus = json.dumps(evidence.artifacts["corpus"].section["steps"])
    if '"pii"' not in corpus:
        section.remarks.append("Personal data was not taken out of the training text.")
    return section


def checking(evidence: Evidence) -> Section:
    """How to check the bundle and to make its figures again."""
    section = Section("checking", "Check it, make it again")
    section.codes = [
        Code("On any machine", "sha256sum -c SHA256SUMS\n"),
        Code("With slm", "slm verify .\n"),
        Code("Every figure again", "see reproduce/README.md\n"),
    ]
    section.facts = [Fact("licence of the weights", evidence.recipe.release.licence)]
    return section


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
