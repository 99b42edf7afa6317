"""On-policy distillation: in some steps the student's own answers take the place of the text's (GKD, arXiv 2306.13649).

In: the micro-batches of a step. Out, with the chance `objective.distill.on_policy`: the same rows, in which the last
answer of each conversation is what the student says to what comes before it, drawn token by token; these tokens alone
are targets, and the teacher is asked about them. A text without answers counts as one that begins in its middle.
Whether a step is such a one depends on the seed and its number, what is drawn on the seed and the place of the row in
the stream of all processes; so a resumed run draws the same, and another number of processes too, short of rounding.

An answer has the room that the text's had, so rows stay as they were packed: it ends with its end token or is cut, and
nothing learns the room behind an end. It is written by the model that the step trains (rounded or sparse where that
is), over the cache of `slm.evaluate.generation`. The time goes to the ledger's phase `generate`; forecasts of time and
`train.max_flops` do not count it. Of a model in shards each process puts together a whole copy, once a step, which it
writes with and drops: during the writing a process holds the whole weights in float32.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from slm.core.batch import IGNORED, Batch
from slm.core.seeds import derive
from slm.evaluate.generation import Prompt, generate
from slm.evaluate.scorer import end_tokens

if TYPE_CHECKING:
    from slm.recipe import Recipe
    from slm.train.loop import Run


class Answer(NamedTuple):
    """A place in a batch: the prompt is `begin` to `first`, the answer `first` + 1 to `last` + 1, all included."""

    row: int
    begin: int
    first: int
    last: int


def writes(recipe: Recipe, step: int) -> bool:
    """Whether the student writes the answers of the step that follows `step`."""
    chance = recipe.objective.distill.on_policy
    return chance > 0 and derive(recipe.seed, "on_policy", step) < chance * 2**63


def own_answers(run: Run, recipe: Recipe, batches: list[Batch]) -> Iterator[Batch]:
    """The micro-batches of a step with the student's answers, one after the other, on the device."""
    world, first_row = run.parallel.world, run.state.loader.step_row
    model, place = run.parallel.everywhere(run.working.refresh()), world.rank
    for batch in batches:
        places = range(place, place + world.size * len(batch.tokens_BT), world.size)
        seeds = [derive(recipe.seed, "on_policy", "row", first_row + each) for each in places]
        place = places.stop
        found = answers_of(batch)
        tokens_BT = batch.tokens_BT.cpu().numpy()
        temperature = recipe.objective.distill.on_policy_temperature
        prompts = [
            Prompt(
                tokens_BT[one.row, one.begin : one.first + 1].astype(np.int32),
                one.last - one.first + 1,
                temperature=temperature,
                seed=derive(seeds[one.row], one.begin),
            )
            for one in found
        ]
        answers = generate(
            model,
            run.tokenizer,
            prompts,
            ends=end_tokens(run.tokenizer),
            batch_tokens=batch.tokens_BT.numel(),
            precision="fp32" if run.precision == "fp32" else "bf16",
        )
        said = {answer.number: answer.ids for some in answers for answer in some}
        yield with_answers(batch, found, [said[number] for number in range(len(found))], run.state.loader.reader.pad_id)


def answers_of(batch: Batch) -> list[Answer]:
    """The last answer of each document of the batch that has one."""
    documents_BT, targets_BT = batch.documents_BT.cpu().numpy(), batch.targets_BT.cpu().numpy()
    found = []
    for row, (documents_T, targets_T) in enumerate(zip(documents_BT, targets_BT, strict=True)):
        borders = [0, *(np.flatnonzero(np.diff(documents_T)) + 1).tolist(), len(documents_T)]
        for begin, end in itertools.pairwise(borders):
            learned = np.flatnonzero(targets_T[begin:end] != IGNORED) + begin
            if documents_T[begin] >= 0 and len(learned):
                first, last = _last_run(learned)
                found.append(Answer(row, begin, (begin + last) // 2 if first == begin else first, last))
    return found


def with_answers(batch: Batch, places: list[Answer], said: list[list[int]], pad_id: int) -> Batch:
    """The batch in which what was said stands in the answers' places, and is all that is learned."""
    tokens_BT = batch.tokens_BT.clone()
    targets_BT = torch.full_like(batch.targets_BT, IGNORED)
    for (row, _, first, last), ids in zip(places, said, strict=True):
        end = first + len(ids)
        tokens_BT[row, first + 1 : last + 2] = pad_id
        tokens_BT[row, first + 1 : end + 1] = targets_BT[row, first:end] = torch.tensor(ids, device=tokens_BT.device)
    return replace(batch, tokens_BT=tokens_BT, targets_BT=targets_BT, num_targets=sum(map(len, said)), own=True)


def _last_run(places: NDArray[Any]) -> tuple[int, int]:
    """The first and last of the numbers at the end that follow one another."""
    breaks = np.flatnonzero(np.diff(places) > 1)
    return int(places[breaks[-1] + 1 if len(breaks) else 0]), int(places[-1])
