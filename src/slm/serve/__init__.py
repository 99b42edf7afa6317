"""A model that answers: the engine behind `slm generate` and `slm chat`, and the stage that publishes samples.

In: the export that the recipe names, or its checkpoint where the recipe exports no GGUF. Out: an artifact
with `samples.json`: each of `serve.sample_prompts` answered by llama.cpp once greedily and once with the
recipe's sampling settings. The smallest file answers (Q8_0, then F16, BF16, F32), since that is the one
people run. It is no proof of parity; the export has that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Draft, Spec, make
from slm.core.errors import UserError
from slm.core.model_files import gguf_model

if TYPE_CHECKING:
    from slm.recipe import Recipe

PREFERRED = ("q8_0", "f16", "bf16", "f32")


def run(recipe: Recipe) -> Artifact:
    """Answer the recipe's sample prompts and publish the answers."""
    where, parents = answering(recipe)

    def build(draft: Draft) -> None:
        from slm.serve.samples import write_samples

        write_samples(draft, recipe, where)

    return make(recipe.folder("serve"), Spec("serve", recipe.serve, parents, seed=recipe.seed), build, redo=recipe.redo)


def answering(recipe: Recipe) -> tuple[str, dict[str, Artifact]]:
    """What answers for the run: where it lies, as `Engine.open` takes it, and the artifacts that it is from.

    Refused where the recipe names another model, or an adapter, whose answers would pass as the run's.
    """
    for key in ("model", "adapter"):
        if named := getattr(recipe.serve, key):
            raise UserError(
                f"serve.{key} ({named}) has no part in a stage, which answers from the run's own export or checkpoint; "
                "leave it out, or use slm generate"
            )
    if not any(name.startswith("gguf") for name in recipe.export.formats):
        return "", {"train": recipe.artifact("train"), "tokenizer": recipe.artifact("tokenizer")}
    export = recipe.artifact("export")
    models = [path for path in (gguf_model(export.path, kind) for kind in PREFERRED) if path.is_file()]
    if not models:
        raise UserError(
            f"{export.path} holds no .gguf file although export.formats asks for one; make it with slm export"
        )
    return str(models[0]), {"export": export}
