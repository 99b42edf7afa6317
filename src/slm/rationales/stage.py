"""Questions to rationales: rounds of asking, each for the items that have none yet.

In: a recipe's `rationales`, and its tokenizer, which measures what is short. Out: `label.jsonl` with every item and its
known answer, `rationale.jsonl` with at most one rationale an item, `dropped.jsonl` with every answer that was not kept
and why, and in the counts the yield, what was dropped by reason, tokens and price. Rows have a prompt, a completion, an
id, and the `item` by which a corpus keeps both tasks of an item on one side of its split (`split_column`).

Every answer is kept beside the artifact, in `rationales.answers`, as it comes, and stays there: a run that was killed,
or whose server stopped, goes on from it, and other bounds on what is kept ask nothing again. A refusal of the server is
counted and not kept: made anew, the artifact asks these questions again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import MANIFEST, Artifact, Draft, Spec, file_sha256, make, newest_checkpoint, open_artifact
from slm.core.console import Progress, quantity, say, table
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.config import TaskConfig
from slm.rationales.check import MARK, label_of, question_of, rationale_of

if TYPE_CHECKING:
    from slm.evaluate.tasks.items import Numbered
    from slm.rationales.config import ItemsConfig, RationalesConfig
    from slm.rationales.teacher import Asked, Replies
    from slm.recipe import Recipe
    from slm.tokenizer.tokenizer import Tokenizer

LABEL, RATIONALE = "[label] ", "[rationale] "
"""In front of each question: what is to be said. The first is evaluate.task_files' `prefix` for such a student."""
MOST_REFUSED_IN_A_ROW = 50
"""Where a server refuses so many, it is the server and not the questions."""
ANSWER_VERSION = 2
"""To be raised when an answer is kept otherwise."""
ANSWERS = "rationales.answers"
"""Beside the artifact."""


@dataclass(slots=True)
class Work:
    """The items, and what became of the answers so far."""

    items: dict[str, Numbered]
    """By the name of their file and their id."""
    kept: dict[str, str] = field(default_factory=dict)
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    """Item, reason, answer."""
    refused: set[str] = field(default_factory=set)
    """Items that are not asked again."""
    lengths: list[int] = field(default_factory=list)
    """Of the rationales that were kept, in tokens."""
    answers: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    _seen: set[str] = field(default_factory=set)

    def take(self, name: str, answer: list[Any], tokenizer: Tokenizer, max_tokens: int) -> None:
        """Keep or drop one answer."""
        text, prompt_tokens, answer_tokens, cut = answer
        self.answers += 1
        self.prompt_tokens += prompt_tokens
        self.answer_tokens += answer_tokens
        rationale, reason = rationale_of(self.items[name].item, text)
        if cut and not reason and "\n" not in text.rpartition(MARK)[2].lstrip():
            reason = "cut at answer_tokens"  # within the number, perhaps
        tokens = len(tokenizer.encode(rationale))
        if not reason and tokens > max_tokens:
            reason = "too long"
        if not reason and " ".join(rationale.split()) in self._seen:
            reason = "duplicate"
        if reason:
            self.dropped.append((name, reason, text))
            return
        self._seen.add(" ".join(rationale.split()))
        self.kept[name] = rationale
        self.lengths.append(tokens)

    def refuse(self, name: str, reason: str) -> None:
        """Count a question that the server would not answer."""
        self.refused.add(name)
        self.dropped.append((name, "refused by the server", reason))


def run(recipe: Recipe) -> Artifact:
    """Make the rationales, unless they are there; `UserError` where the teacher stops or nothing is kept."""
    config = recipe.rationales
    if not config.items or not (config.teacher or config.server.url):
        lacks = "items, the files of questions" if not config.items else "teacher or server.url, who answers them"
        raise UserError(f"rationales lacks {lacks}; name it, as recipe=distill_rationale_15m does")
    tokenizer = recipe.artifact("tokenizer")
    identity, parents = _teacher_of(recipe)
    files = {one.name: _hash(one.name, Path(one.path).expanduser()) for one in config.items}
    inputs = {"items": files, "teacher": identity}
    spec = Spec("rationales", config, {"tokenizer": tokenizer, **parents}, inputs, recipe.seed)
    folder = Path(recipe.runs_dir) / recipe.run / "rationales"

    def build(draft: Draft) -> None:
        _build(recipe, identity, tokenizer, folder.with_name(ANSWERS), draft)

    return make(folder, spec, build, redo=recipe.redo)


def _teacher_of(recipe: Recipe) -> tuple[str, dict[str, Artifact]]:
    """What identifies the teacher, and its checkpoint where it is one of ours; where it is does not count."""
    config = recipe.rationales
    if not config.teacher:
        return config.server.model, {}
    place = Path(config.teacher)
    if not place.exists():
        raise UserError(f"rationales.teacher ({place}) does not exist; correct the path, or name a server")
    if place.is_dir() and (newest_checkpoint(place) / MANIFEST).is_file():
        found = open_artifact(newest_checkpoint(place), "train", verify=recipe.verify)
        return found.fingerprint, {"teacher": found}
    files = [place] if place.is_file() else sorted(one for one in place.iterdir() if one.is_file())
    return " ".join(f"{one.name}:{file_sha256(one)}" for one in files), {}


def _task_of(file: ItemsConfig) -> TaskConfig:
    """The file as the evaluation's tasks read one."""
    return TaskConfig(
        name=file.name, layout=file.layout, path=file.path, id_field=file.id_field, max_items=file.max_items
    )


def _hash(name: str, path: Path) -> str:
    if not path.is_file():
        raise UserError(f"rationales.items: {name} has path {path}, but no such file (looked from {Path.cwd()})")
    return file_sha256(path)


def _build(recipe: Recipe, identity: str, tokenizer_artifact: Artifact, answers: Path, draft: Draft) -> None:
    from slm.evaluate.journal import Journal
    from slm.evaluate.tasks.items import read
    from slm.rationales.teacher import local_answers, server_answers
    from slm.serve.engine import Engine
    from slm.tokenizer.tokenizer import Tokenizer

    config, tokenizer = recipe.rationales, Tokenizer.load(tokenizer_artifact.path)
    work = Work({f"{file.name}/{one.id}": one for file in config.items for one in read(_task_of(file), None)})
    with Journal(answers / "answers.jsonl") as journal:
        if journal.resumed:
            say(f"rationales: {journal.resumed:,} answers are there from before")
        if config.teacher:
            with Engine.open(config.teacher, recipe) as engine:
                _rounds(recipe, identity, tokenizer, work, journal, lambda some: local_answers(engine, recipe, some))
        else:
            _rounds(recipe, identity, tokenizer, work, journal, lambda some: server_answers(config, some))
    if not work.kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in _reasons(work).items())
        raise UserError(
            f"none of {work.answers:,} answers gave a rationale ({reasons}); look at {answers}, and change "
            "rationales.prompt, max_tokens or the teacher"
        )
    _write(work, draft)
    draft.counts.update(_counts(work, config))
    _print(draft.counts)


def _rounds(
    recipe: Recipe,
    identity: str,
    tokenizer: Tokenizer,
    work: Work,
    journal: Any,
    answered: Callable[[Sequence[Asked]], Replies],
) -> None:
    """Ask for each item until a rationale is kept or `samples` answers were given, an answer an item in each round."""
    from slm.evaluate.journal import key_of
    from slm.rationales.teacher import Asked
    from slm.serve.openai_client import Reply

    config = recipe.rationales
    for number in range(config.samples):
        names = [name for name in work.items if name not in work.kept and name not in work.refused]
        asked = [
            Asked(
                config.prompt.replace("{question}", question_of(work.items[name].item)),
                derive(recipe.seed, "rationales", name, number) % 2**31,
            )
            for name in names
        ]
        keys = [key_of(identity, *one, config.temperature, config.answer_tokens, ANSWER_VERSION) for one in asked]
        missing = [place for place, key in enumerate(keys) if journal.get(key) is None]
        refused, in_a_row = dict[str, str](), 0
        title = f"rationales: round {number + 1} of {config.samples}"
        with Progress(title, len(names), "answers", start=len(names) - len(missing)) as progress:
            for some in _until_it_stops(config, journal, len(asked), answered([asked[place] for place in missing])):
                told = [(keys[missing[place]], reply) for place, reply in some]
                journal.put((key, list(_plain(reply))) for key, reply in told if isinstance(reply, Reply))
                refused.update((key, str(reply)) for key, reply in told if not isinstance(reply, Reply))
                in_a_row = 0 if any(isinstance(reply, Reply) for _, reply in told) else in_a_row + len(told)
                if in_a_row >= MOST_REFUSED_IN_A_ROW:
                    raise UserError(
                        f"rationales.server.url ({config.server.url}) refused {in_a_row} questions one after the other "
                        f"({told[-1][1]}); all answers so far are kept in {journal.path}: see to the server and run "
                        "the same command, which goes on from there"
                    )
                progress.advance(len(some))
        if names and len(refused) == len(work.items):
            raise UserError(
                f"rationales.server.url ({config.server.url}) refused all {len(refused):,} questions "
                f"({next(iter(refused.values()))}); change how it is started, rationales.server.model or answer_tokens"
            )
        for name, key in zip(names, keys, strict=True):
            if key in refused:
                work.refuse(name, refused[key])
            else:
                work.take(name, journal.get(key), tokenizer, config.max_tokens)


def _plain(reply: Any) -> tuple[str, int, int, bool]:
    return reply.text, reply.prompt_tokens, reply.generated_tokens, reply.cut


def _until_it_stops(config: RationalesConfig, journal: Any, total: int, replies: Replies) -> Iterator[Any]:
    from slm.serve.openai_client import NoAnswerError

    given = 0
    try:
        for some in replies:
            given += len(some)
            yield some
    except NoAnswerError as error:
        raise UserError(
            f"rationales.server.url ({config.server.url}) gave {given:,} answers of this round's {total:,} and then "
            f"none ({error}); all answers so far are kept in {journal.path}: start the server again and run the same "
            "command, which goes on from there"
        ) from error


def _write(work: Work, draft: Draft) -> None:
    """The two tasks, and what was not kept."""
    labels, reasons = [], []
    for name, one in work.items.items():
        prompt = one.item.prompt
        label = {"id": f"{name}/label", "item": name, "prompt": LABEL + prompt, "completion": label_of(one.item)}
        labels.append(label)
        if name in work.kept:
            row = {"id": f"{name}/rationale", "prompt": RATIONALE + prompt, "completion": work.kept[name]}
            reasons.append({**label, **row})
    left = [{"item": name, "reason": reason, "answer": answer} for name, reason, answer in work.dropped]
    for file, rows in (("label.jsonl", labels), ("rationale.jsonl", reasons), ("dropped.jsonl", left)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (draft.path / file).write_text(lines, encoding="utf-8")


def _reasons(work: Work) -> dict[str, int]:
    return dict(sorted(Counter(reason for _, reason, _ in work.dropped).items()))


def _counts(work: Work, config: RationalesConfig) -> dict[str, Any]:
    """The manifest's figures; a price only where one is known."""
    price = config.price_per_million_prompt * work.prompt_tokens + config.price_per_million_answer * work.answer_tokens
    uncounted = bool(config.server.url) and not work.answer_tokens
    return {
        "items": len(work.items),
        "kept": len(work.kept),
        "answers": work.answers,
        "dropped": _reasons(work),
        "rationale_tokens": {"mean": sum(work.lengths) / len(work.lengths), "longest": max(work.lengths)},
        "prompt_tokens": None if uncounted else work.prompt_tokens,
        "answer_tokens": None if uncounted else work.answer_tokens,
        **({"price": round(price / 1e6, 6)} if price else {}),
    }


def _print(counts: dict[str, Any]) -> None:
    rows = [("kept", counts["kept"]), *counts["dropped"].items()]
    table(f"{counts['answers']:,} answers to {counts['items']:,} items", ("answer", "number"), rows)
    lengths = counts["rationale_tokens"]
    share = f"{100 * counts['kept'] / counts['items']:.1f} % of the items, {lengths['mean']:.1f} tokens long on average"
    if counts["answer_tokens"] is None:
        say(f"rationales: for {share}; what it took is unknown, for the server counts no tokens")
        return
    took = f"{counts['prompt_tokens']:,} tokens asked, {counts['answer_tokens']:,} answered"
    price = f", price {quantity(counts['price'])}" if "price" in counts else ""
    say(f"rationales: for {share}; {took}{price}")
