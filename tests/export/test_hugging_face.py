import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from slm.core.errors import DamagedError, UserError
from slm.export import hugging_face
from slm.export.config import ExportConfig
from slm.export.parity import Reference, prove
from slm.export.subject import Subject
from slm.model.hugging_face import from_pretrained

SubjectOf = Callable[..., Subject]
PROMPTS = ("def main():\n", "import os\n    ")


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False, "sliding_window": 16}])
def test_transformers_opens_the_folder_and_computes_the_same(
    changes: dict[str, object], subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig
) -> None:
    subject = subject_of(**changes)
    reference = Reference(subject, export_config, [*PROMPTS, "a\u2581b"])
    written = hugging_face.write(subject, tmp_path, "hf")
    assert {file.name for file in written.path.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja",
    }  # fmt: skip
    with hugging_face.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(reference, engine, export_config, "hf", 1)
    assert found.max_delta <= 1e-4
    assert (found.quantity, found.greedy_equal, found.greedy_compared, found.notices) == (
        "logits, whole vocabulary", 3, 3, []
    )  # fmt: skip


def test_a_setting_changed_in_the_folder_is_caught(
    subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig
) -> None:
    subject = subject_of()
    reference = Reference(subject, export_config, PROMPTS)
    folder = hugging_face.write(subject, tmp_path, "hf").path
    config = json.loads((folder / "config.json").read_text())
    config["rms_norm_eps"] = 1e-2
    (folder / "config.json").write_text(json.dumps(config))
    with (
        hugging_face.engine(folder, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine,
        pytest.raises(
            UserError,
            match=r"hf failed its proof: largest .* \(logits, whole vocabulary\) .* above export\.max_logit_delta_hf",
        ),
    ):
        prove(reference, engine, export_config, "hf", 1)


def test_the_folder_reads_back_bit_for_bit(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of(tie_embeddings=False)
    again = from_pretrained(hugging_face.write(subject, tmp_path, "hf").path).state_dict()
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(again[name], tensor)


def test_nan_is_refused_by_name(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = subject_of()
    with torch.no_grad():
        subject.model.norm.weight[3] = float("nan")
    with pytest.raises(DamagedError, match=r"norm\.weight holds NaN or infinity"):
        hugging_face.write(subject, tmp_path, "hf")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def verbosity() -> Iterator[int]:
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_info()
    yield logging.get_verbosity()
    logging.set_verbosity(before)


def test_transformers_settings_and_torchs_threads_are_put_back(
    subject_of: SubjectOf, tmp_path: Path, verbosity: int
) -> None:
    from transformers.utils import logging

    subject = subject_of()
    folder = hugging_face.write(subject, tmp_path, "hf").path
    before, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    with hugging_face.engine(folder, end_ids=subject.end_ids, context_tokens=0, threads=2):
        assert torch.get_num_threads() == 2
    assert (torch.get_num_threads(), logging.is_progress_bar_enabled()) == (before, bars)
    assert logging.get_verbosity() == verbosity


def test_large_models_are_several_files_with_an_index(subject_of: SubjectOf, tmp_path: Path) -> None:
    subject = replace(subject_of(), max_shard_bytes=60_000)
    folder = hugging_face.write(subject, tmp_path, "hf").path
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert sorted(set(index["weight_map"].values())) == files
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    with hugging_face.engine(folder, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine, torch.no_grad():
        ours = subject.model(torch.tensor([[1, 5, 6]]))[0].numpy()
        np.testing.assert_allclose(engine.logits([1, 5, 6]), ours, atol=1e-4)
