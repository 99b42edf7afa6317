"""The metadata of a GGUF file: what the model is, how it computes, how its text is cut, where it comes from.

llama.cpp takes everything from here and guesses the rest, so nothing is left to a guess: token types are
ours (control tokens as CONTROL, or their texts could be typed in), no space is put before a text, and
runs of spaces stay. The keys are those of ggml's `docs/gguf.md`; three of our own, below `slm.`, say which
checkpoint and tokenizer the file was made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf

from slm import __version__
from slm.export.subject import Subject

if TYPE_CHECKING:
    from slm.model.config import ModelConfig


def add_metadata(writer: gguf.GGUFWriter, subject: Subject, kind: gguf.LlamaFileType, num_parameters: int) -> None:
    """Fill `writer` with every key; tensors are not its business."""
    _add_origin(writer, subject, kind, num_parameters)
    _add_shape(writer, subject.model.config)
    _add_tokenizer(writer, subject)


def _add_origin(writer: gguf.GGUFWriter, subject: Subject, kind: gguf.LlamaFileType, num_parameters: int) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(subject.name)
    writer.add_size_label(gguf.size_label(num_parameters, num_parameters, 0, 0))
    writer.add_file_type(kind)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_quantized_by(f"slm {__version__}")
    licences = sorted({dataset.licence for dataset in subject.datasets if dataset.licence})
    if licences:
        writer.add_license(" AND ".join(licences))
    writer.add_dataset_count(len(subject.datasets))
    for index, dataset in enumerate(subject.datasets):
        writer.add_dataset_name(index, dataset.name)
        if dataset.origin.startswith(("https://", "http://")):
            writer.add_dataset_url(index, dataset.origin)
        origin = f"{dataset.origin}; " if dataset.origin else ""
        writer.add_dataset_description(index, f"{origin}licence {dataset.licence or 'unknown'}")
    writer.add_string("slm.version", __version__)
    writer.add_string("slm.checkpoint", subject.checkpoint)
    writer.add_string("slm.tokenizer", subject.tokenizer.hash)


def _add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling is not None and config.rope_scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_scaling.factor)


def _add_tokenizer(writer: gguf.GGUFWriter, subject: Subject) -> None:
    vocabulary = subject.tokenizer.gguf_vocabulary()
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_unk_token_id(vocabulary.unk_id)
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eos_id)
    writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_eot_token_id(subject.turn_end_id)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    writer.add_remove_extra_whitespaces(vocabulary.remove_extra_whitespaces)
    writer.add_chat_template(vocabulary.chat_template)
