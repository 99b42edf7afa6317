"""`train.initial`: a run that begins with the weights of another, as post-training, QAT and sparse fine-tuning do.

In: where a checkpoint lies. Out: that artifact, which becomes a parent of the run's own checkpoints (their manifests
hold its fingerprint, and `slm lineage` goes through it), and a model with its published weights: the average, where
there is one. Optimizer, cursor, schedule and random streams begin anew; a run that is to go on as it was needs no
setting but its name. Tokenizer and shape must be those of the recipe, or the run is refused before anything is read.

Muon, AdamW and the parametrization's learning rates apply as ever; the sizes that it gives fresh weights do not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, differences, newest_checkpoint, open_artifact, require_parent
from slm.core.errors import UserError
from slm.model.config import ModelConfig

if TYPE_CHECKING:
    from slm.model.transformer import Transformer
    from slm.recipe import Recipe

MAY_DIFFER = {"max_seq_len", "residual_init"}
"""Settings of a model that its weights do not depend on."""


def initial_checkpoint(recipe: Recipe, tokenizer: Artifact) -> Artifact:
    """What `train.initial` names; `UserError` where it is missing, of another vocabulary or of another shape."""
    where = Path(recipe.train.initial)
    folder = newest_checkpoint(where)
    if recipe.folder("train").absolute() in (folder.absolute(), *folder.absolute().parents):
        raise UserError(
            f"train.initial ({where}) is this run itself, which goes on without being told; choose another run=NAME"
        )
    try:
        checkpoint = open_artifact(folder, "train", verify=recipe.verify)
    except UserError as error:
        raise UserError(f"train.initial ({where}) cannot be begun with: {error}") from error
    require_parent(checkpoint, "tokenizer", tokenizer)
    theirs, ours = (
        {name: value for name, value in config.identity().items() if name not in MAY_DIFFER}
        for config in (ModelConfig.model_validate(checkpoint.section["model"]), recipe.model)
    )
    if theirs != ours:
        how = "; ".join(differences(theirs, ours, "model"))
        raise UserError(
            f"train.initial ({folder}) holds a model of another kind ({how}); "
            "take over its settings of model, or point train.initial elsewhere"
        )
    return checkpoint


def starting_model(recipe: Recipe, initial: Artifact | None) -> Transformer:
    """The model that a run begins with, on the CPU: that of `initial`, or one with fresh weights."""
    if initial is not None:
        from slm.model.load import load_tensors, model_from

        return model_from(recipe.model, load_tensors(initial.path), initial.path)
    from slm.model.transformer import build
    from slm.train.parametrization import rescale

    model = build(recipe.model, recipe.seed)
    rescale(model, recipe.train.optimizer)
    return model
