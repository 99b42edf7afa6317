"""All figures of one model: answers to every set, what is refused, toxic, personal, leaked and remembered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm.core.artifact import Artifact, Draft
from slm.core.console import say, table
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.recipe import Recipe
from slm.safety.answers import Answer, answer_all, settings_of
from slm.safety.classifier import load_classifier
from slm.safety.config import SafetyConfig
from slm.safety.leaks import leaks
from slm.safety.measures import Measure, share
from slm.safety.memory import canary_sources, exposures
from slm.safety.personal import personal
from slm.safety.prompts import Prompt, read_prompts
from slm.safety.refusals import is_refusal
from slm.safety.stage import ANSWERS, RESULTS
from slm.serve.engine import Engine

SAMPLES = "sample_prompts"
"""The set of the recipe's own sample prompts, which are always asked."""


def measure(recipe: Recipe, where: str, parents: Mapping[str, Artifact], draft: Draft) -> None:
    """Take every figure of `recipe.safety` and write it into `draft`."""
    config = recipe.safety
    if config.max_exposure is not None and not canary_sources(parents["corpus"]):
        raise UserError(
            "safety.max_exposure bounds nothing, since the corpus holds no canaries; add {kind: canaries} to "
            "corpus.sources and train again, or remove the bound"
        )
    sets = [read_prompts(one, config.max_prompts) for one in (*config.refuse, *config.answer, *config.other)]
    sets.append([Prompt(SAMPLES, number, text) for number, text in enumerate(recipe.serve.sample_prompts, 1)])
    settings = settings_of(recipe.serve, config)
    with Engine.open(where, recipe.model_copy(update={"serve": settings})) as engine:
        say(f"safety: {engine.name}")
        answers, too_long = answer_all(engine, [prompt for one in sets for prompt in one], settings)
        tried = leaks(engine, config.leak_secrets, recipe.seed, settings)
        chat_tuned = engine.chat_tuned
    if not answers:
        raise UserError("safety: no prompt leaves room for an answer; raise serve.context_tokens or give shorter ones")
    facts = [_facts(answer, config) for answer in answers]
    measures = _of_answers(facts, config)
    if tried:
        measures.append(share("leaked instructions", tried, at_most=config.max_leaks))
    measures += _remembered(recipe, parents)
    results: dict[str, Any] = {
        "model": Path(where).name if where else "checkpoint",
        "trained_on_conversations": chat_tuned,
        "answers": len(answers),
        "empty_answers": sum(not answer.text.strip() for answer in answers),
        "prompts_too_long": too_long,
        "classifier": load_classifier(Path(config.toxicity)).figures if config.toxicity else None,
        "measures": [one.record() for one in measures],
    }
    (draft.path / RESULTS).write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = (json.dumps(one, ensure_ascii=False) for one in facts)
    (draft.path / ANSWERS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    draft.counts.update(
        answers=len(answers), prompts_too_long=too_long, broken=sum(not one.passed for one in measures),
        bounded=sum(bool(one.bound) for one in measures),
    )  # fmt: skip
    _print(measures)


def _facts(answer: Answer, config: SafetyConfig) -> dict[str, Any]:
    found: dict[str, Any] = {
        "set": answer.prompt.set, "prompt": answer.prompt.id, "answer": answer.text,
        "refusal": is_refusal(answer.text), "personal": personal(answer.text),
    }  # fmt: skip
    if config.toxicity:
        found["toxic"] = load_classifier(Path(config.toxicity)).is_toxic(answer.text)
    return found


def _of_answers(facts: list[dict[str, Any]], config: SafetyConfig) -> list[Measure]:
    measures = []
    for one in config.refuse:
        refused = [fact["refusal"] for fact in facts if fact["set"] == one.name]
        if refused:
            measures.append(share(f"refused of {one.name}", refused, at_least=config.min_refusal))
    for one in config.answer:
        refused = [fact["refusal"] for fact in facts if fact["set"] == one.name]
        if refused:
            measures.append(share(f"wrongly refused of {one.name}", refused, at_most=config.max_over_refusal))
    if config.toxicity:
        measures.append(share("toxic answers", [fact["toxic"] for fact in facts], at_most=config.max_toxic))
    personal_data = [any(fact["personal"].values()) for fact in facts]
    return [*measures, share("answers with personal data", personal_data, at_most=config.max_personal)]


def _remembered(recipe: Recipe, parents: Mapping[str, Artifact]) -> list[Measure]:
    if not canary_sources(parents["corpus"]):
        return []
    from slm.model.load import load_model
    from slm.tokenizer.tokenizer import Tokenizer

    model = load_model(parents["train"].path).eval()
    tokenizer = Tokenizer.load(parents["tokenizer"].path)
    return exposures(model, tokenizer, parents["corpus"], recipe.safety, derive(recipe.seed, "safety"))


def _print(measures: list[Measure]) -> None:
    rows = [
        (one.name, f"{one.value:.4g}", f"{one.low:.4g} to {one.high:.4g}", f"{one.trials:,}", one.bound,
         "" if not one.bound else "held" if one.passed else "BROKEN")
        for one in measures
    ]  # fmt: skip
    table("Safety", ("", "value", "95 % interval", "trials", "bound", ""), rows)
