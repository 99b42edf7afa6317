"""The golden table is checked to the letter, and what a model says is held against it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from slm.core.errors import UserError
from slm.evaluate.golden import GoldenPrompt, check, greedy, logprob_per_token, read_golden

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def knows_one_word(model, tokenizer):
    """A model that says " self" after anything, by a head that looks only at a constant."""
    import copy

    changed = copy.deepcopy(model)
    favourite = tokenizer.encode("x self")[-1]
    with torch.no_grad():
        for block in changed.blocks:
            block.attention.o.weight.zero_()
            block.ffn.down.weight.zero_()
        changed.embedding.weight.fill_(0.05)
        changed.embedding.weight[favourite] = 0.5
    return changed


def test_a_continuation_has_the_mean_log_probability_of_its_tokens(model, tokenizer):
    prompt, continuation = "def f", " return self"
    ids = tokenizer.encode(prompt + continuation, bos=True)
    before = tokenizer.encode(prompt, bos=True)
    assert ids[: len(before)] == before
    with torch.no_grad():
        logprobs = torch.log_softmax(model(torch.tensor([ids]))[0].double(), -1)
    expected = sum(float(logprobs[place - 1, ids[place]]) for place in range(len(before), len(ids)))
    found = logprob_per_token(model, tokenizer, prompt, continuation, "x")
    assert found == pytest.approx(expected / (len(ids) - len(before)), rel=1e-5)


def test_a_token_across_the_border_counts_to_the_continuation(model, tokenizer):
    whole = tokenizer.encode("return", bos=True)
    assert tokenizer.encode("retur", bos=True) != whole[: len(tokenizer.encode("retur", bos=True))]
    assert logprob_per_token(model, tokenizer, "retur", "n", "x") < 0


def test_greedy_is_the_likeliest_token_again_and_again(model, tokenizer):
    ids = tokenizer.encode("def ", bos=True)
    written = []
    with torch.no_grad():
        for _ in range(12):
            token = int(model(torch.tensor([ids + written]))[0, -1].argmax())
            if token == tokenizer.eos_id:
                break
            written.append(token)
    assert greedy(model, tokenizer, "def ", 12, "x") == tokenizer.decode(written)


def test_prompts_pass_and_fail_as_the_model_speaks(knows_one_word, tokenizer):
    prompts = [
        GoldenPrompt(name="says self", prompt="def", pattern=r"^( self){4}$", max_tokens=4),
        GoldenPrompt(name="says yield", prompt="def", pattern="yield", max_tokens=4),
        GoldenPrompt(name="likely", prompt="def", continuation=" self self", min_logprob_per_token=-8),
        GoldenPrompt(name="too likely", prompt="def", continuation=" self self", max_logprob_per_token=-8),
        GoldenPrompt(name="unlikely", prompt="def", continuation=" {}", max_logprob_per_token=-1),
    ]
    outcomes = {outcome.name: outcome for outcome in check(knows_one_word, tokenizer, prompts)}
    assert {name for name, outcome in outcomes.items() if outcome.passed} == {"says self", "likely", "unlikely"}
    assert outcomes["says yield"].expected == "a match of 'yield' in 4 greedy tokens"
    assert outcomes["says yield"].found == "' self self self self'"
    assert outcomes["too likely"].expected == "at most -8 nats a token for ' self self'"
    assert float(outcomes["too likely"].found) > -8


def test_the_end_of_text_ends_the_continuation(knows_one_word, tokenizer, monkeypatch):
    calls = []
    project = type(knows_one_word).project
    monkeypatch.setattr(type(knows_one_word), "project", lambda self, x: calls.append(1) or project(self, x))
    assert greedy(knows_one_word, tokenizer, "def", 9, "x") == " self" * 9
    assert len(calls) == 9
    with torch.no_grad():
        knows_one_word.embedding.weight[tokenizer.eos_id] = 5.0
    assert greedy(knows_one_word, tokenizer, "def", 9, "x") == ""
    assert len(calls) == 10


@pytest.mark.parametrize(
    "prompt",
    [
        GoldenPrompt(name="long", prompt="def", pattern="x", max_tokens=64),
        GoldenPrompt(name="long", prompt="def " * 40, continuation="x", min_logprob_per_token=-1),
    ],
)
def test_a_prompt_longer_than_the_model_is_refused(model, tokenizer, prompt):
    with pytest.raises(
        UserError, match=r"golden prompt long needs \d+ tokens, but model.max_seq_len is 64; shorten it"
    ):
        check(model, tokenizer, [prompt])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r":2: not a JSON object \(.*; correct the line \(the keys are name, prompt, continuation"),
        ("[1]", ":2: expected an object, found list; correct the line"),
        ('{"prompt": "a", "pattern": "b"}', ":2: name: field required; correct"),
        ('{"name": "n", "prompt": "a", "pattren": "b"}', ":2: no such key as pattren; correct"),
        ('{"name": "n", "prompt": "a"}', r":2: give either continuation \(with a bound\) or pattern; correct"),
        ('{"name": "n", "prompt": "a", "pattern": "b", "continuation": "c"}', ":2: give either continuation"),
        ('{"name": "n", "prompt": "a", "continuation": "c"}', ":2: a continuation needs min_logprob_per_token, max_"),
        ('{"name": "n", "prompt": "a", "pattern": "b", "min_logprob_per_token": -1}', ":2: a pattern takes no bounds"),
        (
            '{"name": "n", "prompt": "", "continuation": "c", "min_logprob_per_token": 0, "max_logprob_per_token": -2}',
            r":2: min_logprob_per_token \(0\) must not exceed max_logprob_per_token \(-2\)",
        ),
        (
            '{"name": "n", "prompt": "a", "continuation": "c", "min_logprob_per_token": -1, "max_tokens": 3}',
            ":2: max_tokens has no effect on a continuation",
        ),
        ('{"name": "n", "prompt": "a", "pattern": "("}', ":2: pattern is not a regular expression"),
        ('{"name": "n", "prompt": "a", "continuation": "c", "min_logprob_per_token": 1}', ":2: min_logprob_per_tok"),
        ('{"name": "first", "prompt": "a", "pattern": "b"}', ":2: a second prompt is named first; give it a name"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str, message: str):
    path = tmp_path / "golden.jsonl"
    path.write_text('{"name": "first", "prompt": "a", "pattern": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_golden(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_a_line_that_is_not_utf8_is_named(tmp_path: Path):
    path = tmp_path / "golden.jsonl"
    path.write_bytes(b'\n{"name": "\xff"}\n')
    with pytest.raises(UserError, match=r":2: not UTF-8 \(byte 0xff\); save the table as UTF-8"):
        read_golden(path)


@pytest.mark.parametrize(("content", "message"), [(None, "is not a file"), ("\n \n", "holds no golden prompt")])
def test_a_table_that_is_missing_or_empty_is_refused(tmp_path: Path, content: str | None, message: str):
    path = tmp_path / "golden.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_golden(path)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.jsonl")), ids=lambda path: path.name)
def test_the_shipped_tables_are_well_formed(path: Path):
    assert len(read_golden(path)) >= 5
