"""What each exported file costs on held-out text, by the engine that opens it, and the refusal above its budget.

In: the model in float32, held-out documents, and an engine. Out: a `Cost` (see `slm.compress.measure`): the rise in
bits per byte with its interval over documents, KL from the model in float32, and how often both find the same token
likeliest. Parity, which compares a file with the weights that it was made from, says whether it was written rightly;
this says what its rounding is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slm.compress.measure import Answers, Cost, HeldOut, answers, answers_of, compare, held_out
from slm.compress.task_costs import EngineScorer, Results, ask, differences, plan_choices
from slm.core.console import size, table
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.scorer import Scorer

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.evaluate.tasks.run import Planned
    from slm.export.config import Format, Quality
    from slm.export.subject import Engine, Subject
    from slm.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Judge:
    """Held-out text and what the model in float32 says of it."""

    text: HeldOut
    positions: int
    reference: Answers
    subject: Subject
    tasks: Planned | None
    answered: Results

    def cost(self, engine: Engine, progress: Callable[[int], None]) -> Cost:
        """What the file that `engine` holds costs."""
        found = answers_of(engine.logits, self.text, self.positions, progress)
        return compare(self.reference, found, self.text, derive(0, "bootstrap"))

    def on_tasks(self, engine: Engine) -> list[dict[str, Any]]:
        """What it costs on choice tasks; nothing where none is asked."""
        if self.tasks is None:
            return []
        scorer = EngineScorer(self.subject.model, self.subject.tokenizer, 1, shown=False, logits=engine.logits)
        return differences(self.answered, ask(self.tasks, scorer))


def judge(recipe: Recipe, corpus: Artifact, tokenizer: Artifact, checkpoint: Artifact, subject: Subject) -> Judge:
    """Read the text and ask the model in float32."""
    shards = checkpoint.manifest["parents"].get("shards", {}).get("settings", {})
    context = int(shards.get("seq_len", subject.model.config.max_seq_len))
    quality = recipe.export.quality
    text = held_out(corpus, tokenizer.path, context, quality.documents, recipe.shards.threads)
    model = subject.model.float().eval()
    tasks = plan_choices(recipe, corpus) if quality.tasks else None
    scorer = Scorer(model, subject.tokenizer, recipe.evaluate.batch_tokens, shown=False)
    answered = ask(tasks, scorer) if tasks else {}
    reference = answers(model, text, quality.positions, stride=context)
    return Judge(text, quality.positions, reference, subject, tasks, answered)


def require_budgets(quality: Quality, costs: Mapping[Format, Cost]) -> None:
    """Refuse what costs more than the recipe allows."""
    over = []
    for name, cost in costs.items():
        found = {"max_bits_per_byte_increase": cost.increase, "max_kl": cost.mean_kl}
        over += [
            f"export.quality.{key}.{name} is {budget:g}, it cost {found[key]:.4g}"
            for key, budget in quality.budgets(name).items()
            if not found[key] <= budget
        ]
    if over:
        raise UserError(
            f"{'; '.join(over)}; nothing was published: leave the format out of export.formats, or raise the budget if "
            "that loss is worth the size"
        )


def show(flavours: Mapping[str, Mapping[str, Any]]) -> None:
    """Print what the files cost as a table."""
    rows = []
    for name, found in flavours.items():
        cost = found["cost"]
        low, high = cost["interval_95"]
        rows.append(
            (
                name, found["engine"], size(found["size_bytes"]), f"{cost['increase']:+.5f}",
                f"{low:+.5f} to {high:+.5f}", f"{cost['mean_kl']:.3g}", f"{100 * cost['top1_agreement']:.1f} %",
            )
        )  # fmt: skip
    columns = ("format", "engine", "size", "Δ bits/byte", "95 % interval", "mean KL", "top-1")
    table("What each file costs on held-out text beside the model in float32", columns, rows)
