"""Programs written by the model, judged by the tests of HumanEval and MBPP, in a sandbox.

In: items with a prompt and tests. Out: per item `pass@1`, and `pass@10` and `pass@100` where so many samples were
drawn, each estimated without bias. A program is prompt and answer (HumanEval) or the answer (MBPP), up to where the
function must have ended, followed by the tests. What kept programs apart is noted beside the results; where nothing
does, the task is left out and not run. Which programs passed is kept in the journal, so none runs twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from slm.core.console import Progress
from slm.core.seeds import derive
from slm.evaluate.generation import Prompt
from slm.evaluate.journal import key_of
from slm.evaluate.sandbox import Ended, Limits, isolation, run_program
from slm.evaluate.scorer import Scorer
from slm.evaluate.statistics.pass_at_k import pass_at_k
from slm.evaluate.tasks.config import SandboxConfig, TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome

STOPS = {
    "humaneval": ("\nclass", "\ndef", "\n#", "\nif", "\nprint"),  # arXiv 2107.03374, section 2.1
    "mbpp": ("[DONE]", "\nassert", '\n"""', "\n[BEGIN]"),
}
LONGEST = 512
AT = (1, 10, 100)


def run_code(
    scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], _examples: str, *, sandbox: SandboxConfig, seed: int
) -> Outcome:
    """Draw programs for every item, run them and estimate."""
    outcome, most = Outcome(), config.max_tokens or min(LONGEST, scorer.context_tokens // 2)
    try:
        apart = isolation()
    except OSError as error:
        outcome.skip(f"programs cannot be kept apart here: {error}; run it as another user", len(items))
        return outcome
    outcome.notes["sandbox"] = apart.words
    asked: list[Numbered] = []
    prompts: list[Prompt] = []
    for one in items:
        ids = scorer.prompt_ids(one.item.prompt)
        if len(ids) + most > scorer.context_tokens:
            outcome.skip("longer than the context")
            continue
        asked.append(one)
        for sample in range(config.samples):
            drawn = derive(seed, "program", config.name, one.id, sample)
            prompts.append(Prompt(ids, most, STOPS[config.layout], config.temperature, drawn))
    answers = scorer.answers(prompts, config.name)
    programs = [
        program(config.layout, one, answer)
        for one, answer in zip([one for one in asked for _ in range(config.samples)], answers, strict=True)
    ]
    ended = run_all(scorer, programs, sandbox, config.name, namespaces=apart.namespaces)
    for number, one in enumerate(asked):
        mine = slice(number * config.samples, (number + 1) * config.samples)
        passed = sum(one.passed for one in ended[mine])
        outcome.results += [
            Result(
                config.name,
                one.id,
                f"pass@{k}",
                pass_at_k(config.samples, passed, k),
                one.item.prompt,
                len(prompts[mine.start].ids),
                answer=answers[mine.start],
                clean=one.clean,
                source=config.layout,
                language="python",
            )
            for k in AT
            if k <= config.samples
        ]
    return outcome


def program(layout: str, one: Numbered, answer: str) -> str:
    """What is run: the function as the model wrote it, then the tests."""
    return f"{one.item.prompt if layout == 'humaneval' else ''}{answer}\n\n{one.item.tests}"


def run_all(
    scorer: Scorer, programs: Sequence[str], sandbox: SandboxConfig, name: str, *, namespaces: bool
) -> list[Ended]:
    """How each program ended, several at a time; equal ones run once."""
    limits = Limits(sandbox.seconds, sandbox.memory_mb << 20, sandbox.file_mb << 20, sandbox.processes)
    found: dict[str, Ended] = {}
    keys = {text: key_of("program", text, repr(limits)) for text in dict.fromkeys(programs)}
    for text, key in keys.items():
        known = scorer.journal.get(key) if scorer.journal else None
        if known is not None:
            found[text] = Ended(*known)
    missing = [text for text in keys if text not in found]
    with (
        Progress(f"evaluate: {scorer.label}{name}", len(missing), "programs") as progress,
        ThreadPoolExecutor(sandbox.workers or os.cpu_count() or 1) as pool,
    ):
        runs = pool.map(lambda text: run_program(text, limits, namespaces=namespaces), missing)
        for text, ended in zip(missing, runs, strict=True):
            found[text] = ended
            if scorer.journal:
                scorer.journal.put([(keys[text], [ended.passed, ended.how])])
            progress.advance()
    return [found[text] for text in programs]
