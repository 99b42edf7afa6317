"""Our model through lm-eval equals lm-eval's own `hf` model on the exported files, and its tasks leave our rows."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import yaml

from slm.core.errors import UserError
from slm.evaluate.config import EvaluateConfig
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.config import HarnessConfig
from slm.evaluate.tasks.items import read
from slm.evaluate.tasks.run import plan_tasks
from slm.model.hugging_face import save_pretrained
from slm.model.load import load_model
from slm.model.transformer import Transformer
from slm.tokenizer.hugging_face import write_hugging_face

harness = pytest.importorskip("slm.evaluate.harness", reason="lm-eval is not installed (pip install 'slm[eval]')")

pytestmark = pytest.mark.filterwarnings("ignore")  # lm-eval's own
ROWS = [
    {"query": f"def {word}", "choices": ["self", "None for in", "é"], "gold": number % 3}
    for number, word in enumerate(["return", "class", "for", "yield", "é", "range", "import"])
]
TEXTS = ["def return self None for in", "世界 é == !=", "é" * 150, "class"]


@pytest.fixture(scope="module", name="model")
def trained_model(trained) -> Transformer:
    return load_model(trained.artifact("train").path).eval()


@pytest.fixture(scope="module")
def theirs(model, tokenizer, tmp_path_factory) -> Any:
    """lm-eval's `hf` model over our export."""
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("export")
    save_pretrained(model, folder, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    write_hugging_face(tokenizer, folder)
    return lambda **more: HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3, **more)


@pytest.fixture
def ours(model, tokenizer) -> Any:
    return harness.HarnessModel(Scorer(model, tokenizer, 256))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Definitions of three tasks over a local file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shared = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "doc_to_text": "{{query}}",
    }  # fmt: skip
    metrics = [{"metric": "acc"}, {"metric": "acc_bytes"}]
    tasks = [
        {"task": "own_choice", "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold",
         "metric_list": metrics},
        {"task": "own_answer", "output_type": "generate_until", "doc_to_target": "{{choices[gold]}}",
         "generation_kwargs": {"until": ["for"], "max_gen_toks": 6}, "metric_list": [{"metric": "exact_match"}]},
        {"task": "own_text", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{query}}",
         "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}]},
    ]  # fmt: skip
    for one in tasks:
        (tmp_path / f"{one['task']}.yaml").write_text(yaml.safe_dump({**shared, **one}))
    return tmp_path


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def test_likelihoods_equal_those_of_the_exported_model(ours, theirs):
    pairs = [(row["query"], f" {choice}") for row in ROWS for choice in row["choices"]]
    pairs += [("", "def return"), ("def ", "self"), ("é " * 60, "self"), ("é" * 70, " in")]
    mine = ours.loglikelihood(instances("loglikelihood", pairs))
    # With its logits_cache `hf` takes the wrong place where one request is the beginning of another.
    other = theirs(logits_cache=False).loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    assert len(mine) == len(other) == len(pairs)
    differing = [pair for pair, one, two in zip(pairs, mine, other, strict=True) if abs(one[0] - two[0]) > 1e-4]
    assert not differing
    assert [one[1] for one in mine] == [two[1] for two in other]
    assert ours.shortened == 1


def test_rolling_likelihoods_equal_those_of_the_exported_model(ours, theirs):
    asked = instances("loglikelihood_rolling", [(text,) for text in TEXTS])
    mine = ours.loglikelihood_rolling(asked)
    other = theirs(add_bos_token=False).loglikelihood_rolling(asked, disable_tqdm=True)
    assert mine == pytest.approx(other, abs=1e-4 * 150)
    assert mine[2] == pytest.approx(other[2], rel=1e-5)


def test_answers_equal_those_of_the_exported_model(ours, theirs):
    asked = instances(
        "generate_until",
        [(text, {"until": ["for"], "max_gen_toks": 8}) for text in ["def return", "class", "é" * 90, "in yield None"]],
    )
    mine, other = ours.generate_until(asked), theirs().generate_until(asked, disable_tqdm=True)
    assert [valid(text) for text in mine] == [valid(text) for text in other]
    assert len("".join(map(valid, mine))) > 15
    assert ours.shortened == 1


def valid(text: str) -> str:
    """ASCII alone: what is no UTF-8 is shown differently there."""
    return "".join(one for one in text if one.isascii())


def test_its_tasks_leave_our_rows_and_equal_our_own_scores(folder, model, tokenizer, task, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something went online"))
    config = EvaluateConfig(tasks=("own_choice", "own_answer", "own_text"), harness=HarnessConfig(folder=str(folder)))
    scorer = Scorer(model, tokenizer, 256)
    outcomes = plan_tasks(config, None).harness.run(scorer)
    assert list(outcomes) == ["own_choice", "own_answer", "own_text"]
    own = task("query", ROWS)
    expected = run_choice(scorer, own, read(own, None), "").results
    found = outcomes["own_choice"].results
    assert [(one.metric, one.value, one.answer, one.gold) for one in found] == [
        (one.metric, one.value, one.answer, one.gold) for one in expected
    ]
    for one, two in zip(found, expected, strict=True):
        assert one.choice_logprobs == pytest.approx(two.choice_logprobs, abs=1e-4)
        assert (one.choices, one.choice_bytes, one.chance) == (list(two.choices), two.choice_bytes, two.chance)
        assert (one.prompt, one.prompt_tokens, one.clean) == (two.prompt, two.prompt_tokens, None)
    assert [one.metric for one in outcomes["own_answer"].results] == ["exact_match"] * len(ROWS)
    assert {one.metric for one in outcomes["own_text"].results} == {"bits_per_byte"}
    assert "word_perplexity" in outcomes["own_text"].notes["lm-eval"]
    assert len({(one.item, one.metric) for one in found}) == len(found)


def test_who_is_asked_second_sees_the_same_examples(folder, model, tokenizer):
    settings = HarnessConfig(folder=str(folder), few_shot=2)
    harness_of = plan_tasks(EvaluateConfig(tasks=("own_choice",), harness=settings), None).harness
    scorer = Scorer(model, tokenizer, 256)
    first, second = (harness_of.run(scorer)["own_choice"].results for _ in range(2))
    assert first == second
    assert len({one.prompt.rsplit("def", 1)[0] for one in first}) > 1  # they are drawn item by item


def test_unknown_names_are_refused_with_the_nearest(folder, task, monkeypatch):
    real = harness.TaskManager  # lm-eval's own collection would take 14 s to look through
    monkeypatch.setattr(harness, "TaskManager", lambda include_path, **_: real(None, include_path, False))
    own = task("query", ROWS, name="own_thing")
    given = {"task_files": (own,), "harness": HarnessConfig(folder=str(folder))}
    with pytest.raises(UserError, match=r"evaluate.tasks: own_chioce is neither .*; did you mean own_choice"):
        plan_tasks(EvaluateConfig(tasks=("own_chioce",), **given), None)


def test_data_that_cannot_be_fetched_is_a_sentence(folder):
    (folder / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"lm-eval could not load own_choice \(FileNotFoundError: .*go online, or name"):
        plan_tasks(EvaluateConfig(tasks=("own_choice",), harness=HarnessConfig(folder=str(folder))), None)


def test_tasks_that_execute_code_are_refused(folder):
    file = folder / "own_choice.yaml"
    file.write_text(file.read_text() + "unsafe_code: true\n")
    with pytest.raises(UserError, match="executes what the model writes, without a sandbox; name its file"):
        plan_tasks(EvaluateConfig(tasks=("own_choice",), harness=HarnessConfig(folder=str(folder))), None)
