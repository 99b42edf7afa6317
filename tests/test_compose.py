"""From command-line words to a recipe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.compose import load_recipe, prepare_overrides

TRICKY = [
    "", " ", "  two leading spaces", "-", "???", "null", "1e6", "[1, 2]", "{a: b}", "a=b", "a,b", "def f():\n  pass",
    "print('x', \"y\")", "it's", "'", "''", "\\", "\\\\", "\\'", "ends in \\", "ends in \\\n", "\\n", "${x}", "\\${x}",
    "$${x}", "\\\\${a'}\\'", "${oc.env:HOME}", "${", "}", "\t\r\n", "\x0b\x85\u2028", "😀 é ▁", "#", "%s", "<|im_end|>",
]  # fmt: skip
awkward = st.lists(st.sampled_from(["\\", "'", '"', "$", "${", "{", "}", "a", " ", "\n", ",", ":", "=", "(", "["]))


@pytest.mark.parametrize("text", TRICKY)
def test_a_prompt_arrives_unchanged(text: str) -> None:
    assert load_recipe("recipe=smoke", f"serve.prompt={text}").serve.prompt == text


@settings(max_examples=40, deadline=None)
@given(st.one_of(awkward.map("".join), st.text(max_size=20)))
def test_any_prompt_arrives_unchanged(text: str) -> None:
    assert load_recipe("recipe=smoke", f"serve.prompt={text}").serve.prompt == text


def test_a_shortcut_is_as_verbatim_as_the_key_it_stands_for() -> None:
    words = {"prompt": "serve.prompt", "temperature": "serve.temperature"}
    assert prepare_overrides(["prompt=it's", "temperature=0"], words) == [
        r"++serve.prompt='it\'s'",
        "++serve.temperature=0",
    ]


def test_a_path_with_commas_and_equal_signs_arrives_unchanged() -> None:
    path = "runs/lr=0.1,width=64/export/model-f16.gguf"
    assert load_recipe("recipe=smoke", f"serve.model={path}").serve.model == path
