"""The Hugging Face form against ours, through `AutoTokenizer` and nothing of ours."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.tokenizer import Tokenizer
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.training import CONTROL_TOKENS

SHARED: list[tuple[Tokenizer, tokenizers.Tokenizer]] = []


@pytest.fixture(scope="module")
def opened(artifact: Artifact) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(artifact.path)


@pytest.fixture(autouse=True)
def _shared(tokenizer: Tokenizer, artifact: Artifact) -> None:
    if not SHARED:
        SHARED.append((tokenizer, tokenizers.Tokenizer.from_file(str(artifact.path / "tokenizer.json"))))


def test_ids_of_adversarial_texts_are_ours(opened: Any, tokenizer: Tokenizer, adversarial: tuple[str, ...]) -> None:
    different = [
        text for text in adversarial if opened(text, add_special_tokens=False).input_ids != tokenizer.encode(text)
    ]
    assert different == []
    assert [text for text in adversarial if opened.decode(tokenizer.encode(text)) != text] == []


def test_ids_of_code_and_prose_are_ours(opened: Any, tokenizer: Tokenizer, texts: list[str]) -> None:
    encoded = opened(texts, add_special_tokens=False).input_ids
    assert encoded == [ids.tolist() for ids in tokenizer.encode_documents(texts, 2)]


@given(st.text().filter(lambda text: not any(marker in text for marker in CONTROL_TOKENS)))
def test_ids_of_any_text_are_ours(text: str) -> None:
    """But for names of control tokens, which transformers reads in any text and hypothesis finds in the code."""
    ours, theirs = SHARED[0]
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


def test_ids_of_repetitions_are_ours() -> None:
    """Where one piece can be split in two ways, ties between merges must break alike."""
    ours, theirs = SHARED[0]
    generator = random.Random(0)
    for _ in range(5000):
        letters = generator.choice(
            ["a", " \n", "-=", "ab", " \na(", "eself.", "()\n ", "\t\n ", "_ a", "\"' \n", "aA0."]
        )
        text = "".join(generator.choices(letters, k=generator.randint(1, 40)))
        assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text), text


def test_meta_space_is_spelt_in_bytes_as_in_ours(opened: Any, tokenizer: Tokenizer) -> None:
    for text in ("▁", "a▁b", " ▁▁ "):
        assert opened(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
        assert opened.decode(tokenizer.encode(text)) == text


def test_control_names_in_text_are_parsed_unless_told_otherwise(
    opened: Any, tokenizer: Tokenizer, control_texts: tuple[str, ...]
) -> None:
    """The one difference: transformers needs it for chat templates, which it renders to a string."""
    for text in control_texts:
        parsed = opened(text, add_special_tokens=False).input_ids
        assert parsed != tokenizer.encode(text)
        assert any(tokenizer.is_control(index) for index in parsed)
        plain = opened(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert plain == tokenizer.encode(text)


def test_start_token_is_added_by_default_and_no_end(opened: Any, tokenizer: Tokenizer) -> None:
    assert opened("hello").input_ids == tokenizer.encode("hello", bos=True)
    assert opened("a", "b").input_ids == [1, *tokenizer.encode("a"), 1, *tokenizer.encode("b")]


def test_special_tokens_and_template_are_set(opened: Any, tokenizer: Tokenizer) -> None:
    assert (opened.unk_token_id, opened.bos_token_id, opened.eos_token_id, opened.pad_token_id) == (0, 1, 2, 3)
    assert opened.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [4, 5]
    assert set(opened.all_special_ids) == set(range(6))
    assert opened.chat_template == tokenizer.chat_template
    assert len(opened) == tokenizer.vocab_size
    assert opened.decode([1, *tokenizer.encode("hi"), 2], skip_special_tokens=True) == "hi"


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_beside_a_model_it_opens_as_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path, model_type: str) -> None:
    """`AutoTokenizer` looks at the model's config too, and may prefer a class of that family."""
    transformers = pytest.importorskip("transformers")
    write_hugging_face(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for beside in (False, True):
        if beside:
            (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
        opened = transformers.AutoTokenizer.from_pretrained(tmp_path)
        for text in ("  two  spaces\n        indented ▁ \0 😀", "plain"):
            assert opened(text).input_ids == tokenizer.encode(text, bos=True)


def test_saved_again_by_transformers_it_is_still_the_same(opened: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    opened.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again(" x\n  y ▁").input_ids == tokenizer.encode(" x\n  y ▁", bos=True)
    assert again.chat_template == tokenizer.chat_template


def test_files_are_the_same_each_time(tokenizer: Tokenizer, artifact: Artifact, tmp_path: Path) -> None:
    write_hugging_face(tokenizer, tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (artifact.path / file.name).read_bytes()
    shutil.rmtree(tmp_path)
