"""Programs are put together, run and counted; none runs twice."""

from __future__ import annotations

import pytest

from slm.evaluate import sandbox
from slm.evaluate.journal import Journal
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks import code
from slm.evaluate.tasks.code import run_code
from slm.evaluate.tasks.config import SandboxConfig
from slm.evaluate.tasks.items import read

HUMANEVAL = [
    {"task_id": f"n/{n}", "prompt": f"def f{n}(x):\n", "entry_point": f"f{n}",
     "test": f"def check(f):\n    assert f(1) == {n}\n"}
    for n in (1, 2)
]  # fmt: skip
MBPP = [{"task_id": 15, "text": "Write one.", "test_list": ["assert one() == 1"]}]


@pytest.fixture
def asked(monkeypatch):
    """The prompts, answered by `return 1` in every second sample."""
    prompts = []

    def answers(_self, some, _name):
        prompts.extend(some)
        return [f"    return {1 if number % 2 == 0 else 'x +'}\n" for number in range(len(some))]

    monkeypatch.setattr(Scorer, "answers", answers)
    return prompts


def test_programs_that_pass_are_estimated_without_bias(task, scorer, asked):
    config = task("humaneval", HUMANEVAL, samples=10, temperature=0.8, max_tokens=9, id_field="task_id")
    outcome = run_code(scorer, config, read(config, None), "", sandbox=SandboxConfig(), seed=1)
    assert [(one.item, one.metric, one.value) for one in outcome.results] == [
        ("n/1", "pass@1", 0.5), ("n/1", "pass@10", 1.0), ("n/2", "pass@1", 0.0), ("n/2", "pass@10", 0.0)
    ]  # fmt: skip
    assert len({one.seed for one in asked}) == 20
    assert {one.temperature for one in asked} == {0.8}
    assert outcome.notes["sandbox"] == sandbox.isolation().words
    assert outcome.results[0].language == "python"


def test_equal_programs_run_once_and_not_again_after_a_restart(task, scorer, asked, tmp_path, monkeypatch):
    ran = []
    real = sandbox.run_program
    monkeypatch.setattr(
        code, "run_program", lambda text, *more, **named: ran.append(text) or real(text, *more, **named)
    )
    config = task("humaneval", HUMANEVAL[:1], samples=4, temperature=0.8, max_tokens=9)
    for _ in range(2):
        with Journal(tmp_path / "journal") as journal:
            kept = Scorer(scorer.model, scorer.tokenizer, 256, "fp32", journal)
            outcome = run_code(kept, config, read(config, None), "", sandbox=SandboxConfig(), seed=1)
        assert outcome.results[0].value == 0.5
    assert len(ran) == 2
    assert "def f1(x):\n    return 1\n\n\ndef check(f):" in ran[0]
    assert len(asked) == 8


def test_mbpp_runs_the_answer_alone(task, scorer, monkeypatch):
    monkeypatch.setattr(Scorer, "answers", lambda *_: ["def one():\n    return 1\n"])
    monkeypatch.setattr(Scorer, "context_tokens", 512)
    config = task("mbpp", MBPP, max_tokens=9)
    outcome = run_code(scorer, config, read(config, None), "", sandbox=SandboxConfig(), seed=1)
    assert [(one.metric, one.value) for one in outcome.results] == [("pass@1", 1.0)]


def test_nothing_runs_where_programs_cannot_be_kept_apart(task, scorer, monkeypatch):
    def refused():
        raise OSError("an empty program did not run")

    monkeypatch.setattr(code, "isolation", refused)
    monkeypatch.setattr(code, "run_program", lambda *_, **__: pytest.fail("it ran"))
    config = task("humaneval", HUMANEVAL)
    outcome = run_code(scorer, config, read(config, None), "", sandbox=SandboxConfig(), seed=1)
    assert outcome.results == []
    assert list(outcome.skipped) == [
        "programs cannot be kept apart here: an empty program did not run; run it as another user"
    ]


def test_long_prompts_are_counted(task, scorer, asked):
    config = task("humaneval", [*HUMANEVAL, {**HUMANEVAL[0], "prompt": "é" * 90}], max_tokens=9)
    outcome = run_code(scorer, config, read(config, None), "", sandbox=SandboxConfig(), seed=1)
    assert outcome.skipped == {"longer than the context": 1}
    assert len(asked) == 2
