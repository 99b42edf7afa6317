"""The release stage: a run in, a bundle out, or one sentence for every check that failed.

The gate is asked before anything is written, and the bundle takes its name in one rename when it is whole. A bundle
that is there and was made from the same artifacts, settings, commit and tag is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slm.core.artifact import Artifact, Draft, Spec, file_sha256, make
from slm.release.check import require, show
from slm.release.evidence import NEEDED, collect
from slm.safety.config import BOUNDS

if TYPE_CHECKING:
    from slm.recipe import Recipe

LAYOUT_VERSION = 1


def run(recipe: Recipe) -> Artifact:
    """Judge the run and publish its bundle; `UserError` naming each check that failed."""
    evidence = collect(recipe)
    golden = evidence.golden

    def build(draft: Draft) -> None:
        from slm.release.bundle import write_bundle
        from slm.release.gate import judge

        checks = judge(evidence)
        show("Release gate", checks)
        require("release", checks)
        write_bundle(draft, evidence, checks)

    if evidence.missing:
        from slm.release.gate import judge

        require("release", judge(evidence))
    inputs = {
        "layout_version": LAYOUT_VERSION,
        "name": recipe.run,
        "repository": evidence.repository.record,
        "bounds": {name: getattr(recipe.safety, name) for name in BOUNDS},
        "golden": file_sha256(golden) if golden is not None and golden.is_file() else "",
    }
    parents = {str(stage): evidence.artifacts[stage] for stage in NEEDED}
    return make(recipe.folder("release"), Spec("release", recipe.release, parents, inputs), build, redo=recipe.redo)
