"""Ids of real llama.cpp, from a tiny random model with our vocabulary, against ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy
import pytest

from slm.serve.llama_cpp import LlamaCpp
from slm.tokenizer import GgufVocabulary, Tokenizer

pytest.importorskip("xllamacpp")

WIDTH, FFN, HEADS = 32, 64, 2


def write_model(path: Path, vocabulary: GgufVocabulary) -> None:
    """A llama of one layer with random weights: enough to be loaded and to tokenize."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary.tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(vocabulary.unk_id)
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_remove_extra_whitespaces(vocabulary.remove_extra_whitespaces)
    writer.add_chat_template(vocabulary.chat_template)
    generator = numpy.random.default_rng(0)
    square, wide = (WIDTH, WIDTH), (FFN, WIDTH)
    shapes = {
        "token_embd": (len(vocabulary.tokens), WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,),
        "blk.0.attn_q": square, "blk.0.attn_k": square, "blk.0.attn_v": square, "blk.0.attn_output": square,
        "blk.0.ffn_norm": (WIDTH,), "blk.0.ffn_gate": wide, "blk.0.ffn_up": wide, "blk.0.ffn_down": (WIDTH, FFN),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.standard_normal(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def engine(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_model(path, tokenizer.gguf_vocabulary())
    with LlamaCpp(path) as running:
        yield running


def test_ids_of_adversarial_texts_are_ours(
    engine: LlamaCpp, tokenizer: Tokenizer, adversarial: tuple[str, ...]
) -> None:
    different = [text for text in adversarial if engine.tokenize(text) != tokenizer.encode(text)]
    assert different == []


def test_ids_of_code_and_prose_are_ours(engine: LlamaCpp, tokenizer: Tokenizer, texts: list[str]) -> None:
    assert all(engine.tokenize(text) == tokenizer.encode(text) for text in texts[::2])


def test_control_names_stay_text_unless_parsing_is_asked_for(
    engine: LlamaCpp, tokenizer: Tokenizer, control_texts: tuple[str, ...]
) -> None:
    for text in control_texts:
        assert engine.tokenize(text) == tokenizer.encode(text)
    assert engine.tokenize("<|im_start|>", control=True) == [4]


def test_start_token_is_added_by_default_and_no_end(engine: LlamaCpp, tokenizer: Tokenizer) -> None:
    assert engine.tokenize("hello", bos=True) == [1, *tokenizer.encode("hello")]


def test_meta_space_is_the_one_difference_and_reads_as_a_space(engine: LlamaCpp, tokenizer: Tokenizer) -> None:
    for text in ("▁", "a▁b", " ▁▁x"):
        assert engine.tokenize(text) == tokenizer.encode(text.replace("▁", " "))
        assert engine.tokenize(text) != tokenizer.encode(text)
