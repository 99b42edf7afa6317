"""Our model as one of lm-eval's, and lm-eval's tasks as ours.

In: names of tasks that lm-eval 0.4.13 or a folder of YAML definitions knows. Out: the same rows per item as our own
tasks leave, and lm-eval's own figures beside them. `HarnessModel` is lm-eval's `TemplateLM`: likelihoods, rolling
likelihoods and answers come from `Scorer`, so they are laid out as trees, kept in the journal, and the same on every
device. The start token stands in front of every context, as in training.

Beside lm-eval's own `hf` model on the exported files: equal log-likelihoods to 1e-4 (tested), but where its
`logits_cache`, which is on by default, takes a wrong place ("def" + " self" beside "" + "def x"). Rolling likelihoods
do not score the start token itself, which `hf` does with tokenizers that add one. What exceeds the context is
shortened on the left as `hf` does, but counted. lm-eval knows nothing of what the corpus holds, so its items are
neither clean nor contaminated; tasks that execute what the model writes are refused: `evaluate.task_files` has a
sandbox for them.

Cost: lm-eval is 27 packages and 195 MB beside ours; names from its own collection take 14 s to look up, those of a
folder a millisecond.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from slm.core.errors import UserError
from slm.evaluate.generation import Prompt
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.config import HarnessConfig
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.outcome import Outcome
from slm.evaluate.tree import Request

SEED = 1234
"""lm-eval's own default, for which examples it draws."""
ANSWER_TOKENS = 256
"""lm-eval's default length of an answer."""


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A `Scorer` with lm-eval's three questions."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer, self._tokenizer = scorer, scorer.tokenizer
        self.shortened = 0
        """Requests that did not fit the context."""

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self._tokenizer.bos_id

    @property
    def max_length(self) -> int:
        return self._scorer.context_tokens

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.hash

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        """Ids; with the start token unless told not to."""
        return self._tokenizer.encode(string, bos=add_special_tokens is not False)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        del disable_tqdm
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        asked = []
        for _words, context, continuation in requests:
            ids = (context + continuation)[-(self.max_length + 1) :]
            self.shortened += len(ids) < len(context) + len(continuation)
            asked.append(Request(np.array(ids, dtype=np.int32), max(1, len(ids) - len(continuation))))
        return [(one.logprob, one.greedy) for one in self._scorer.likelihoods(asked, "likelihoods")]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of whole texts, in windows that score each token once."""
        del disable_tqdm
        asked: list[Request] = []
        owner: list[int] = []
        for number, request in enumerate(requests):
            ids = self._tokenizer.encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            for context, continuation in map(make_disjoint_window, windows):
                asked.append(Request(np.array(context + continuation, dtype=np.int32), len(context)))
                owner.append(number)
        found = self._scorer.likelihoods(asked, "rolling likelihoods")
        sums = np.bincount(owner, weights=[one.logprob for one in found], minlength=len(requests))
        return [float(one) for one in sums]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedy answers, or drawn ones where a task asks for a temperature."""
        del disable_tqdm
        prompts = []
        for number, request in enumerate(requests):
            context, settings = request.args
            named = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
            most = next((int(settings[name]) for name in named if settings.get(name)), ANSWER_TOKENS)
            most = min(most, self.max_length - 1)
            ids = self.tok_encode(context)
            kept = ids[-(self.max_length - most) :]
            self.shortened += len(kept) < len(ids)
            until = settings.get("until") or []
            temperature = float(settings.get("temperature") or 0) if settings.get("do_sample") else 0.0
            stops = (until,) if isinstance(until, str) else tuple(until)
            prompts.append(Prompt(np.array(kept, dtype=np.int32), most, stops, temperature, seed=number))
        return self._scorer.answers(prompts, "answers")


class Harness:
    """Tasks of lm-eval, found and loaded."""

    def __init__(self, names: Sequence[str], config: HarnessConfig, own: Sequence[str]) -> None:
        """`own` are the names of `evaluate.task_files`, for a hint where a name is misspelt."""
        self._config = config
        with _quiet():
            manager = TaskManager(include_path=config.folder or None, include_defaults=False)
            if not set(names) <= set(manager.all_tasks):
                manager = TaskManager(include_path=config.folder or None)
            for name in names:
                if name not in manager.all_tasks:
                    near = difflib.get_close_matches(name, [*own, *manager.all_tasks], 3, 0.6)
                    hint = f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks lists them"
                    raise UserError(f"evaluate.tasks: {name} is neither of evaluate.task_files nor of lm-eval; {hint}")
            try:
                self._tasks: Any = manager.load(list(names))
            except Exception as error:  # whatever a definition, a data set or the hub raises
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                raise UserError(
                    f"evaluate.tasks: lm-eval could not load {', '.join(names)} ({reason}); most of its tasks fetch "
                    "their data from the Hugging Face hub: go online, or name a file in evaluate.task_files"
                ) from error
        for name, task in self._tasks["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False):
                raise UserError(
                    f"evaluate.tasks: {name} of lm-eval executes what the model writes, without a sandbox; name its "
                    "file in evaluate.task_files with layout humaneval or mbpp, which has one"
                )
            few_shot = config.few_shot if config.few_shot >= 0 else task.get_config("num_fewshot") or 0
            task.set_config(key="num_fewshot", value=few_shot)

    def run(self, scorer: Scorer) -> dict[str, Outcome]:
        """What each task came to."""
        model = HarnessModel(scorer)
        for task in self._tasks["tasks"].values():
            task.set_fewshot_seed(seed=SEED)  # here, so that who runs second is asked with the same examples
        with _quiet():
            found = evaluate(model, self._tasks, limit=self._config.max_items or None, bootstrap_iters=0)
        outcomes: dict[str, Outcome] = {}
        for name, samples in found["samples"].items():
            outcomes[name] = outcome = Outcome(results=list(_rows(name, samples, model)))
            figures = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
            outcome.notes["lm-eval"] = ", ".join(f"{key.removesuffix(',none')} {figures[key]:.4g}" for key in figures)
        if model.shortened:
            next(iter(outcomes.values())).notes["shortened"] = (
                f"{model.shortened:,} requests of lm-eval's tasks exceeded {model.max_length:,} tokens and were cut on "
                "the left, as lm-eval does"
            )
        return outcomes


def _rows(name: str, samples: Sequence[dict[str, Any]], model: HarnessModel) -> Iterator[Result]:
    seen: dict[tuple[str, str], int] = {}
    for sample in samples:
        arguments, answers = sample["arguments"], sample["filtered_resps"]
        scored = [one for one in answers if isinstance(one, tuple | list) and len(one) == 2]
        choices = [str(one[1]) for one in arguments] if len(scored) == len(arguments) > 1 else []
        logprobs = [float(one[0]) for one in scored] if choices else []
        num_bytes = [len(choice.removeprefix(" ").encode()) for choice in choices]
        target, prompt = sample["target"], str(arguments[0][0])
        for metric in sample["metrics"]:
            value = _value(metric, sample[metric])
            if value is None:
                continue
            label = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
            key = (sample["doc_hash"][:16], label)
            seen[key] = seen.get(key, -1) + 1
            yield Result(
                name,
                key[0] + "+" * seen[key],
                label,
                value,
                prompt,
                len(model.tok_encode(prompt)),
                chance=1 / len(choices) if choices and metric.startswith("acc") else None,
                choices=choices,
                gold=target if choices and isinstance(target, int) and target < len(choices) else -1,
                choice_logprobs=logprobs,
                choice_bytes=num_bytes,
                answer=_taken(metric, choices, logprobs, num_bytes) if choices else "" if scored else str(answers[0]),
                source="lm-eval",
            )


def _taken(metric: str, choices: Sequence[str], logprobs: Sequence[float], num_bytes: Sequence[int]) -> str:
    """The choice that decided a metric: the likeliest, or for acc_norm per character and for acc_bytes per byte."""
    sizes = {"acc_norm": [len(choice.removeprefix(" ")) for choice in choices], "acc_bytes": list(num_bytes)}
    per = np.maximum(sizes.get(metric, [1] * len(choices)), 1)
    return choices[int(np.argmax(np.array(logprobs) / per))]


def _value(metric: str, found: Any) -> float | None:
    """One item's figure; None for those that only mean something over all items, such as perplexities."""
    if isinstance(found, bool | int | float | np.number):
        return float(found)
    if metric == "bits_per_byte" and isinstance(found, tuple):
        return -float(found[0]) / math.log(2) / max(1, int(found[1]))
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's log off the terminal; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
