"""A small tokenizer, small models, and a run folder with everything that the export stage reads."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slm.compress.assemble import assemble
from slm.compress.config import CompressConfig, Variant
from slm.compress.files import load_compressed
from slm.compress.stream import StoredModel, compress_blocks
from slm.core.artifact import LATEST, Artifact, Spec, create, open_artifact, write_atomically
from slm.corpus.config import CorpusConfig
from slm.export.config import ExportConfig
from slm.export.subject import Dataset, Subject
from slm.model.config import ModelConfig
from slm.model.load import save_model
from slm.model.transformer import Transformer, build
from slm.recipe import Recipe
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.hugging_face import write_hugging_face
from slm.tokenizer.sample import Quota
from slm.tokenizer.tokenizer import Tokenizer
from slm.tokenizer.training import train_model
from slm.train.config import TrainConfig

VOCAB = 448
SHAPE = {
    "vocab_size": VOCAB, "width": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn_width": 96,
    "max_seq_len": 64,
}  # fmt: skip
ModelOf = Callable[..., Transformer]
SubjectOf = Callable[..., Subject]
Save = Callable[[Recipe, Transformer, int], Artifact]
PROMPTS = ("def main():\n", "import os\n    ")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    words = (string.__file__, json.__file__)
    texts = [("", Path(file).read_text(encoding="utf-8")) for file in words]
    size = sum(len(text.encode()) for _, text in texts)
    config = TokenizerConfig(vocab_size=VOCAB)
    return Tokenizer(train_model(lambda: texts, {"": Quota(size, size)}, config, "two modules"))


@pytest.fixture(scope="session")
def export_config() -> ExportConfig:
    """Budgets for an untrained model of width 64, whose F16 and Q8_0 are coarser than a trained one's."""
    return ExportConfig(prompts=PROMPTS, greedy_tokens=8, max_logprob_delta_f16=0.02, max_logprob_delta_q8_0=1.0)


@pytest.fixture(scope="session")
def model_of() -> ModelOf:
    """Untrained models whose norms are not all ones, so that a norm in the wrong place shows."""

    def make(**changes: object) -> Transformer:
        model = build(ModelConfig.model_validate(SHAPE | changes), 7)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.uniform_(0.5, 1.5, generator=generator)
        return model

    return make


@pytest.fixture(scope="session")
def subject_of(tokenizer: Tokenizer, model_of: ModelOf) -> SubjectOf:
    def make(**changes: object) -> Subject:
        source = Dataset("stdlib", "PSF-2.0", "the standard library of Python 3.11")
        return Subject("tiny", model_of(**changes), tokenizer, "f" * 64, (source,))

    return make


@pytest.fixture
def compressed(subject_of: SubjectOf, tmp_path: Path) -> Callable[..., Subject]:
    """A small model in integers: plain rounding, for what is tested is the layout."""

    def make(variant: Variant | None = None, **changes: object) -> Subject:
        variant = variant or Variant(name="int4", method="rtn", group_size=32)
        subject = subject_of(**changes)
        save_model(subject.model, tmp_path / "checkpoint")
        model, folder = StoredModel(tmp_path / "checkpoint"), tmp_path / variant.name
        config = CompressConfig(variants=(variant,), on_misfit="next")
        work = tmp_path / f"{variant.name}-work"
        compress_blocks(model, None, variant, config, work, lambda _: None)
        assemble(model, variant, work, folder)
        return replace(subject, model=load_compressed(folder), variant=folder)

    return make


@pytest.fixture
def run_recipe(
    tmp_path: Path, tokenizer: Tokenizer, export_config: ExportConfig, model_of: ModelOf, save_checkpoint: Save
) -> Recipe:
    """A recipe whose run holds a corpus, a tokenizer and a checkpoint."""
    recipe = Recipe(
        run="tiny", runs_dir=str(tmp_path / "runs"), model=ModelConfig.model_validate(SHAPE), export=export_config
    )
    with create(recipe.folder("corpus"), Spec("corpus", CorpusConfig())) as draft:
        facts = {"documents": 2, "bytes": 10, "licence": "PSF-2.0", "origin": "the standard library"}
        draft.counts["sources"] = {"stdlib": facts}
    corpus = recipe.artifact("corpus")
    with create(recipe.folder("tokenizer"), Spec("tokenizer", TokenizerConfig(), {"corpus": corpus})) as draft:
        (draft.path / "tokenizer.model").write_bytes(tokenizer.model)
        write_hugging_face(tokenizer, draft.path)
        draft.counts["hash"] = tokenizer.hash
    save_checkpoint(recipe, model_of(), 20)
    return recipe


@pytest.fixture(scope="session")
def save_checkpoint() -> Save:
    """Publishes a model as the newest checkpoint of a recipe's run."""

    def save(recipe: Recipe, model: Transformer, step: int) -> Artifact:
        path = recipe.folder("train") / f"step-{step:08d}"
        with create(path, Spec("train", TrainConfig(), {"tokenizer": recipe.artifact("tokenizer")})) as draft:
            save_model(model, draft.path)
            draft.counts.update(step=step, tokens=step * 100, finished=True)
        write_atomically(recipe.folder("train") / LATEST, f"{path.name}\n")
        return open_artifact(path, "train")

    return save
