"""A run to one self-contained HTML page: what came out, how it got there, and how to make it again.

In: every artifact of the run that exists, at least a checkpoint, and `metrics.jsonl`. Out: `report.html`
without scripts or requests to anywhere, readable on a phone, on paper, light and dark. A stage that was not
run is named as such; one made from another checkpoint than the one in hand is marked. Being made in two
seconds from what is there, a report that is out of date is replaced without asking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe

REPORT = "report.html"


def run(recipe: Recipe) -> Artifact:
    """Write the run's report, unless it is there and nothing that it shows has changed."""
    from slm.core.artifact import Draft, Spec, make
    from slm.report.gather import finished_artifacts, inputs

    artifacts = finished_artifacts(recipe)
    spec = Spec("report", recipe.report, {str(stage): found for stage, found in artifacts.items()}, inputs(recipe))

    def build(draft: Draft) -> None:
        from slm.report.gather import gather
        from slm.report.render import render

        page = render(gather(recipe, artifacts))
        (draft.path / REPORT).write_text(page, encoding="utf-8")
        draft.counts.update(stages=list(artifacts), characters=len(page))

    return make(recipe.folder("report"), spec, build, redo=True)
