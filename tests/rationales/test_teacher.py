"""Models here answer in batches or one by one, and a question that does not fit gives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm.export import run as run_export
from slm.rationales import teacher
from slm.rationales.teacher import Asked, local_answers, server_answers
from slm.serve.engine import Engine
from slm.serve.openai_client import NoAnswerError
from tests.chat_server import Failure


@pytest.fixture
def engine(trained):
    with Engine.open(str(Path(trained.runs_dir) / trained.run), trained) as opened:
        yield opened


def answers(engine, recipe, asked):
    return dict(pair for some in local_answers(engine, recipe, asked) for pair in some)


def test_a_batch_gives_what_each_question_alone_gets_and_one_by_one_greedily_the_same(engine, asking, monkeypatch):
    recipe = asking(samples=1, temperature=0.0, answer_tokens=6, server={})
    asked = [Asked(f"{n} and 3?", n) for n in range(5)]
    together = answers(engine, recipe, asked)
    assert [answers(engine, recipe, [one])[0] for one in asked] == [together[n] for n in range(5)]
    assert all(0 < one.generated_tokens <= 6 and one.prompt_tokens for one in together.values())
    monkeypatch.setattr(teacher, "isinstance", lambda *_: False, raising=False)
    assert {n: reply.text for n, reply in answers(engine, recipe, asked).items()} == {
        n: reply.text for n, reply in together.items()
    }


@pytest.mark.parametrize("batched", [True, False])
def test_a_question_that_does_not_fit_gives_nothing(engine, asking, monkeypatch, batched):
    if not batched:
        monkeypatch.setattr(teacher, "isinstance", lambda *_: False, raising=False)
    recipe = asking(answer_tokens=6, server={})
    found = answers(engine, recipe, [Asked("3 and 4?", 1), Asked("x" * 200, 1)])
    assert found[1] == teacher.NOTHING
    assert found[0].prompt_tokens > 0


def test_draws_depend_on_the_seed(engine, asking):
    recipe = asking(temperature=2.0, answer_tokens=12, server={})
    found = answers(engine, recipe, [Asked("3 and 4?", seed) for seed in (1, 2, 1)])
    assert found[0] == found[2] != found[1]


def test_answers_that_were_on_the_way_when_a_server_stopped_are_handed_out(asking, server):
    server.script = [Failure(status=401), *["late\n#### 1"] * 3]
    config = asking(parallel=4).rationales
    found = []
    given = server_answers(config, [Asked(f"{n} and 1?", n) for n in range(50)])
    with pytest.raises(NoAnswerError, match="401"):
        found.extend(pair for some in given for pair in some)
    assert len(found) == len(server.asked) - 1
    assert len(server.asked) < 50


def test_a_gguf_answers_what_its_checkpoint_does(engine, trained, asking):
    export = trained.export.model_copy(update={"formats": ("gguf_f32",), "prompts": ("3 and",), "greedy_tokens": 2})
    made = run_export(trained.model_copy(update={"export": export}))
    recipe = asking(samples=1, temperature=0.0, answer_tokens=6, server={})
    asked = [Asked(f"{n} and 3?", n) for n in range(3)]
    with Engine.open(str(made.file("model-f32.gguf")), recipe) as gguf:
        found = answers(gguf, recipe, asked)
    assert found == answers(engine, recipe, asked)
