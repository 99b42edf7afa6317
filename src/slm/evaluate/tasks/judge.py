"""Open questions over two turns (MT-Bench), judged by another model.

In: items with turns, and a server that speaks OpenAI's chat protocol. Out: per item and turn the row `rating`, 1 to
10. The model answers greedily in its own chat template; the judge sees the conversation up to the turn and must end
with [[rating]]. A verdict without one is asked for once more, then left out and counted. Without a judge the task is
left out with that reason. Answers and verdicts are kept in the journal: where the judge stops answering, the same
command goes on with what is missing.

Ratings by a model favour long answers and those of its own kind; only ratings by the same judge compare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from slm.core.console import Progress
from slm.core.errors import UserError
from slm.evaluate.generation import Prompt
from slm.evaluate.journal import key_of
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome
from slm.serve.config import ServerConfig
from slm.serve.openai_client import ChatClient, NoAnswerError

LONGEST = 256
RATING = re.compile(r"\[\[(10|[1-9])(?:\.0+)?\]\]")
INSTRUCTION = (
    "You are an impartial judge of an assistant's answers. Read the conversation and rate the assistant's last answer "
    "alone: is it helpful, relevant, correct, deep enough and detailed? Its length is no merit. Explain in two "
    "sentences, then end with a rating from 1 to 10 in double brackets, like this: [[5]]\n\n"
)
NO_JUDGE = "no judge (evaluate.judge.url is empty)"

Messages = list[dict[str, str]]


def run_open_questions(
    scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], _examples: str, *, judge: ServerConfig
) -> Outcome:
    """Let every turn be answered, and the answers be judged."""
    outcome = Outcome()
    if not judge.url:
        outcome.skip(NO_JUDGE, len(items))
        return outcome
    outcome.notes["judge"] = f"{judge.model} at {judge.url}"
    talks = conversations(scorer, config, items, outcome)
    asked = [(one, talk[: end + 1]) for one, talk in talks for end in range(1, len(talk), 2)]
    ratings = verdicts(scorer, [talk for _, talk in asked], judge, config.name)
    for (one, talk), rating in zip(asked, ratings, strict=True):
        if rating is None:
            outcome.skip("the judge gave no rating")
            continue
        outcome.results.append(
            Result(
                config.name,
                one.id,
                f"rating of turn {len(talk) // 2}",
                rating,
                talk[-2]["content"],
                len(_ids(scorer, talk[:-1])),
                answer=talk[-1]["content"],
                clean=one.clean,
                source=config.layout,
                language=config.language or None,
            )
        )
    return outcome


def conversations(
    scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], outcome: Outcome
) -> list[tuple[Numbered, Messages]]:
    """Each item with its turns and the model's answers; a turn that does not fit ends it, and is counted."""
    most = config.max_tokens or min(LONGEST, scorer.context_tokens // 2)
    talks: list[tuple[Numbered, Messages]] = [(one, []) for one in items]
    for turn in range(max(len(one.item.turns) for one in items)):
        open_talks = []
        for one, talk in talks:
            if turn >= len(one.item.turns) or len(talk) < 2 * turn:
                continue
            ids = _ids(scorer, [*talk, {"role": "user", "content": one.item.turns[turn]}])
            if len(ids) + most > scorer.context_tokens:
                outcome.skip("turns longer than the context")
            else:
                open_talks.append((talk, one.item.turns[turn], Prompt(np.array(ids, dtype=np.int32), most)))
        answers = scorer.answers([prompt for *_, prompt in open_talks], f"{config.name}, turn {turn + 1}")
        for (talk, question, _), answer in zip(open_talks, answers, strict=True):
            talk += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return talks


def verdicts(scorer: Scorer, talks: Sequence[Messages], judge: ServerConfig, name: str) -> list[float | None]:
    """The rating of each conversation's last answer; `UserError` where the judge stops answering."""
    ratings: list[float | None] = []
    with (
        ChatClient(
            judge.url, judge.model, judge.key_variable, timeout_seconds=judge.timeout_seconds, attempts=judge.attempts
        ) as client,
        Progress(f"evaluate: {name}", len(talks), "verdicts") as progress,
    ):
        for number, talk in enumerate(talks):
            key = key_of("verdict", judge.model, talk)
            known = scorer.journal.get(key) if scorer.journal else None
            if known is None:
                try:
                    known = [_rating(client, talk)]
                except NoAnswerError as error:
                    raise UserError(
                        f"evaluate.judge.url ({judge.url}) gave {number:,} of {len(talks):,} verdicts and then none "
                        f"({error}); what it gave is kept: start it again and run the same command, or leave "
                        "evaluate.judge.url and model empty"
                    ) from error
                if scorer.journal:
                    scorer.journal.put([(key, known)])
            ratings.append(known[0])
            progress.advance()
    return ratings


def _rating(client: ChatClient, talk: Messages) -> float | None:
    words = "\n\n".join(f"{one['role']}: {one['content']}" for one in talk)
    for _ in range(2):
        found = RATING.findall(client.ask([{"role": "user", "content": f"{INSTRUCTION}{words}"}]).text)
        if found:
            return float(found[-1])
    return None


def _ids(scorer: Scorer, talk: Messages) -> list[int]:
    return scorer.tokenizer.render_chat(talk)
