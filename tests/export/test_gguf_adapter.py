"""Adapters in llama.cpp: beside the base's file it computes what our model with the adapter computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf as gguf_library
import numpy as np
import pytest
import torch

from slm.core.errors import UserError
from slm.export import gguf
from slm.export.gguf_adapter import write_adapter
from slm.export.subject import Subject
from slm.model.config import LoraConfig
from slm.model.lora import Adapter, attach, fresh
from slm.model.transformer import Transformer
from slm.serve.llama_cpp import LlamaCpp

IDS = [1, 40, 41, 60, 35, 90, 33]


def trained(model: Transformer, **changes: object) -> Adapter:
    adapter = fresh(model, LoraConfig.model_validate({"rank": 3, "alpha": 7, **changes}), seed=2)
    generator = torch.Generator().manual_seed(3)
    for parts in adapter.tensors.values():
        parts["b"] += 0.2 * torch.randn(parts["b"].shape, generator=generator)
    return adapter


@pytest.mark.parametrize(
    ("shape", "options"),
    [({}, {}), ({"qk_norm": True, "tie_embeddings": False}, {"rslora": True, "targets": ("attention.q", "ffn.up")})],
    ids=["llama", "qwen3 rslora"],
)
def test_llama_cpp_computes_what_the_model_with_its_adapter_does(
    subject_of: Callable[..., Subject], tmp_path: Path, shape: dict[str, object], options: dict[str, object]
) -> None:
    subject = subject_of(**shape)
    base = gguf.write(subject, tmp_path, "gguf_f32").path
    adapter = trained(subject.model, **options)
    write_adapter(adapter, subject.model.config, tmp_path / "adapter.gguf")
    with torch.no_grad():
        plain = subject.model(torch.tensor([IDS]))[0, -1].log_softmax(-1).double().numpy()
        attach(subject.model, adapter)
        wanted = subject.model(torch.tensor([IDS]))[0, -1].log_softmax(-1).double().numpy()
    with LlamaCpp(base, exact=True, threads=1, adapter=tmp_path / "adapter.gguf") as llama:
        found = llama.logprobs(IDS)
    assert np.abs(plain - wanted).max() > 0.1
    assert np.abs(found - wanted).max() < 1e-4


def test_the_file_says_what_it_is_and_for_which_base(subject_of: Callable[..., Subject], tmp_path: Path) -> None:
    model = subject_of().model
    adapter = trained(model)
    write_adapter(Adapter(adapter.config, adapter.tensors, "0123"), model.config, tmp_path / "adapter.gguf")
    fields = gguf_library.GGUFReader(tmp_path / "adapter.gguf").fields
    said = {key: fields[key].contents() for key in ("general.type", "adapter.type", "general.architecture", "slm.base")}
    assert said == {
        "general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama", "slm.base": "0123",
    }  # fmt: skip
    assert fields["adapter.lora.alpha"].contents() == 7


def test_dora_is_refused_with_the_way_out(subject_of: Callable[..., Subject], tmp_path: Path) -> None:
    model = subject_of().model
    with pytest.raises(UserError, match="merge it into its base"):
        write_adapter(fresh(model, LoraConfig(dora=True), 1), model.config, tmp_path / "adapter.gguf")
    assert not list(tmp_path.iterdir())
