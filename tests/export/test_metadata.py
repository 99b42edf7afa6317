from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf as gguf_library
import pytest

from slm import __version__
from slm.export import gguf
from slm.export.subject import Dataset, Subject
from slm.model.transformer import Transformer
from slm.tokenizer.tokenizer import Tokenizer

SubjectOf = Callable[..., Subject]


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf_library.GGUFReader(path).fields.items()}


def test_a_file_says_what_it_is_how_it_computes_and_where_it_comes_from(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of(rope_theta=50_000.0, norm_eps=1e-6)
    found = fields(gguf.write(subject, tmp_path, "gguf_q8_0").path)
    expected = {
        "general.architecture": "llama", "general.type": "model", "general.name": "tiny", "general.file_type": 7,
        "general.quantization_version": 2, "general.license": "PSF-2.0", "general.size_label": "90K",
        "general.quantized_by": f"slm {__version__}",
        "general.dataset.count": 1, "general.dataset.0.name": "stdlib",
        "general.dataset.0.description": "the standard library of Python 3.11; licence PSF-2.0",
        "slm.version": __version__, "slm.checkpoint": "f" * 64, "slm.tokenizer": subject.tokenizer.hash,
        "llama.vocab_size": 448, "llama.context_length": 64, "llama.embedding_length": 64, "llama.block_count": 2,
        "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16, "llama.attention.value_length": 16, "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 50_000.0,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert not any("scaling" in name for name in found)


def test_the_tokenizer_travels_whole(subject_of: SubjectOf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = fields(gguf.write(subject_of(), tmp_path, "gguf_f32").path)
    texts, scores, types = zip(*tokenizer.pieces(), strict=True)
    expected = {
        "model": "llama", "pre": "default", "tokens": list(texts), "scores": list(scores), "token_type": list(types),
        "unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "padding_token_id": 3, "eot_token_id": 5,
        "add_bos_token": True, "add_eos_token": False, "add_space_prefix": False, "remove_extra_whitespaces": False,
    }  # fmt: skip
    assert {name: found[f"tokenizer.ggml.{name}"] for name in expected} == expected
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert types[:8] == (2, 3, 3, 3, 3, 3, 6, 6)


@pytest.mark.parametrize(("name", "number"), [("gguf_f32", 0), ("gguf_f16", 1), ("gguf_bf16", 32)])
def test_the_file_type_is_the_number_that_llama_cpp_uses(
    name: str, number: int, subject_of: SubjectOf, tmp_path: Path
) -> None:
    assert fields(gguf.write(subject_of(), tmp_path, name).path)["general.file_type"] == number


def test_qk_norm_makes_a_qwen3_and_linear_positions_are_written(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of(qk_norm=True, rope_scaling={"kind": "linear", "factor": 4})
    found = fields(gguf.write(subject, tmp_path, "gguf_f32").path)
    assert found["general.architecture"] == "qwen3"
    assert (found["qwen3.rope.scaling.type"], found["qwen3.rope.scaling.factor"]) == ("linear", 4.0)


def test_several_licences_are_all_named_and_an_origin_that_is_an_address_is_linked(
    tokenizer: Tokenizer, model_of: Callable[..., Transformer], tmp_path: Path
) -> None:
    sources = (Dataset("a", "MIT", "https://example.org/a"), Dataset("b", "CC0-1.0", ""), Dataset("c", "", "a disk"))
    found = fields(gguf.write(Subject("t", model_of(), tokenizer, "c", sources), tmp_path, "gguf_f32").path)
    assert found["general.license"] == "CC0-1.0 AND MIT"
    assert found["general.dataset.0.url"] == "https://example.org/a"
    assert "general.dataset.1.url" not in found
    assert found["general.dataset.2.description"] == "a disk; licence unknown"
    nothing = fields(gguf.write(Subject("t", model_of(), tokenizer, "c"), tmp_path, "gguf_f32").path)
    assert "general.license" not in nothing
    assert nothing["general.dataset.count"] == 0
