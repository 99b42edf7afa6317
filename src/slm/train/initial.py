"""`train.initial`: a run that begins with the weights of another, as post-training, QAT and sparse fine-tuning do.

In: where a checkpoint lies, or a variant of one that `slm.compress` made without integers. Out: that artifact, which
becomes a parent of the run's own checkpoints (their manifests hold its fingerprint, and `slm lineage` goes through it),
and a model with its published weights: the average, where there is one. Optimizer, cursor, schedule and random streams
begin anew; a run that is to go on as it was needs no setting but its name. Tokenizer and shape must be those of the
recipe, or the run is refused before anything is read.

Muon, AdamW and the parametrization's learning rates apply as ever; the sizes that it gives fresh weights do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Spec, differences, newest_checkpoint, open_artifact, require_parent
from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.objective.config import COMPARING

if TYPE_CHECKING:
    from slm.model.transformer import Transformer
    from slm.recipe import Recipe

QUANTIZATION = "quantization.json"
"""What a variant of `slm.compress` has in its folder and a checkpoint does not."""
MAY_DIFFER = {"max_seq_len", "residual_init"}
"""Settings of a model that its weights do not depend on."""


def initial_model(recipe: Recipe, tokenizer: Artifact) -> tuple[Artifact, dict[str, str]]:
    """What `train.initial` names, and which variant of it; refused if missing, of another vocabulary or shape."""
    where = Path(recipe.train.initial)
    folder = newest_checkpoint(where)
    if recipe.folder("train").absolute() in (folder.absolute(), *folder.absolute().parents):
        raise UserError(
            f"train.initial ({where}) is this run itself, which goes on without being told; choose another run=NAME"
        )
    is_variant = (folder / QUANTIZATION).is_file()
    try:
        if is_variant:
            found = open_artifact(folder.parent, "compress", verify=recipe.verify)
        else:
            found = open_artifact(folder, "train", verify=recipe.verify)
    except UserError as error:
        raise UserError(f"train.initial ({where}) cannot be begun with: {error}") from error
    require_parent(found, "tokenizer", tokenizer)
    training = found.manifest["parents"]["train"]["settings"] if is_variant else found.section
    theirs, ours = (
        {name: value for name, value in config.identity().items() if name not in MAY_DIFFER}
        for config in (ModelConfig.model_validate(training["model"]), recipe.model)
    )
    if theirs != ours:
        how = "; ".join(differences(theirs, ours, "model"))
        raise UserError(
            f"train.initial ({folder}) holds a model of another kind ({how}); "
            "take over its settings of model, or point train.initial elsewhere"
        )
    return found, {"initial_variant": folder.name} if is_variant else {}


def teacher_of(recipe: Recipe, tokenizer: Artifact) -> Artifact:
    """The checkpoint that `objective.distill.teacher` names; refused if missing, or of another vocabulary or length."""
    return _beside(recipe, tokenizer, "objective.distill.teacher", recipe.objective.distill.teacher)


def reference_of(recipe: Recipe, tokenizer: Artifact) -> Artifact:
    """The checkpoint that `objective.preference.reference` names, refused as a teacher is."""
    return _beside(recipe, tokenizer, "objective.preference.reference", recipe.objective.preference.reference)


def _beside(recipe: Recipe, tokenizer: Artifact, key: str, where: str) -> Artifact:
    """A checkpoint that reads the same rows beside the model that is trained."""
    try:
        found = open_artifact(newest_checkpoint(Path(where)), "train", verify=recipe.verify)
    except UserError as error:
        role = "teach" if key.endswith("teacher") else "be compared with"
        raise UserError(f"{key} ({where}) cannot {role}: {error}") from error
    require_parent(found, "tokenizer", tokenizer)
    longest = int(found.section["model"]["max_seq_len"])
    if recipe.shards.seq_len > longest:
        raise UserError(
            f"{key} ({where}) reads {longest:,} tokens, but rows have {recipe.shards.seq_len:,}; "
            "lower shards.seq_len or take one for longer texts"
        )
    return found


def store_of(recipe: Recipe, parents: Mapping[str, Artifact]) -> Artifact:
    """The teacher's stored distributions; refused unless of these very rows, this teacher and these settings."""
    found, settings = recipe.artifact("distill"), recipe.objective.distill
    for name in ("shards", "tokenizer"):
        require_parent(found, name, parents[name])
    if settings.teacher:
        require_parent(found, "teacher", teacher_of(recipe, parents["tokenizer"]))
    if settings.temperature != found.counts["temperature"]:
        raise UserError(
            f"objective.distill.temperature ({settings.temperature:g}) must be that of the store in {found.path} "
            f"({found.counts['temperature']:g}); set it so, or make another store"
        )
    if settings.divergence != "forward_kl" and found.counts["method"] == "samples":
        raise UserError(
            f"objective.distill.divergence ({settings.divergence}) cannot be had from draws, which {found.path} holds; "
            "set it to forward_kl, make a store with distill.method=top_k, or set objective.distill.source=teacher"
        )
    return found


def check_rows(recipe: Recipe, shards: Artifact) -> None:
    """Refuse an objective that these rows do not suit, and settings that conversations cannot follow."""
    held, kind, settings = shards.counts.get("preferences", ""), recipe.objective.kind, recipe.objective.preference
    if recipe.train.curriculum.lengths and (held or "conversations" in shards.counts):
        raise UserError(
            f"train.curriculum cuts rows, and with them what is said in {shards.path}: answers would be learned "
            "without what was asked; leave it out"
        )
    if held and kind != "preference":
        raise UserError(
            f"{shards.path} holds preferences, which objective.kind={kind} would learn both sides of; set it to "
            "preference, or make shards of other conversations"
        )
    if kind != "preference":
        return
    if not held:
        raise UserError(
            f"objective.kind is preference, but {shards.path} holds none; make shards of a source with "
            "conversations: pairs, transcripts or labelled"
        )
    if held == "labels" and settings.loss != "kto":
        raise UserError(
            f"objective.preference.loss={settings.loss} needs pairs of answers, but {shards.path} holds answers with a "
            "label; set it to kto, or make shards of pairs"
        )
    if settings.loss in COMPARING and not (settings.reference or recipe.train.initial):
        raise UserError(
            f"objective.preference.loss={settings.loss} compares with a reference; begin with one by "
            "train.initial=RUN, or name another by objective.preference.reference"
        )


def starting_model(recipe: Recipe, spec: Spec) -> Transformer:
    """The model that a run begins with, on the CPU: that of `train.initial`, or one with fresh weights."""
    if initial := spec.parents.get("initial"):
        from slm.model.load import load_tensors, model_from
        from slm.train.sparsity import require_2_of_4

        folder = initial.path / str(spec.inputs.get("initial_variant", ""))
        tensors = load_tensors(folder)
        if any(name.endswith(".values") for name in tensors):
            raise UserError(
                f"train.initial ({folder}) holds integers, which cannot be trained; begin with the checkpoint that "
                "they were made from, or with a variant of 32 bits and outside_bits 16 or 32"
            )
        model = model_from(recipe.model, {name: tensor.float() for name, tensor in tensors.items()}, folder)
        if recipe.train.sparsity != "none":
            require_2_of_4(model, str(folder))
        if recipe.train.lora is not None:
            from slm.model.lora import attach, fresh

            attach(model, fresh(model, recipe.train.lora, recipe.seed), keep=False)
        return model
    from slm.model.transformer import build
    from slm.train.parametrization import rescale

    model = build(recipe.model, recipe.seed)
    rescale(model, recipe.train.optimizer)
    return model
