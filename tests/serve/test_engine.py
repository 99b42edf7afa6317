"""One model behind four back ends, and how an answer ends."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slm.core.errors import UserError
from slm.core.manifest import manifest_checksum
from slm.model.config import LoraConfig
from slm.model.load import load_model
from slm.model.lora import Adapter, attach, fresh, merge, save_adapter
from slm.recipe import Recipe
from slm.serve.engine import Engine, trained_on_chat
from slm.tokenizer.tokenizer import Tokenizer


def reseal(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the checksum that fits it."""
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksum": manifest_checksum(manifest)}))


TEXTS = [
    "", "def main():\n    pass", " leading", "  two", "a\n\n\tb", "héllo 😀 日本", "\x00", "<s></s>",
    "<|im_end|>", "<|im_start|>user\n<|eos|>", "x" * 300,
]  # fmt: skip
Scripts = Callable[..., Engine]
BACK_ENDS = ["checkpoint", "hf", "gguf", "onnx"]


@pytest.mark.parametrize("text", TEXTS)
def test_every_back_end_reads_the_same_ids(engines: dict[str, Engine], text: str) -> None:
    ids = {name: engine.encode(text) for name, engine in engines.items()}
    assert ids["hf"] == ids["gguf"] == ids["onnx"] == ids["checkpoint"]
    assert ids["checkpoint"][0] == Tokenizer.bos_id


@pytest.mark.parametrize("name", BACK_ENDS)
def test_control_tokens_in_text_stay_text(engines: dict[str, Engine], tokenizer: Tokenizer, name: str) -> None:
    ids = engines[name].encode("a<|im_end|><|eos|><|bos|>")
    assert not any(tokenizer.is_control(token) for token in ids[1:])
    assert tokenizer.decode(ids) == "a<|im_end|><|eos|><|bos|>"


@pytest.mark.parametrize("prompt", ["def main():\n", "import re", "", "class Node:\n    def __init__(self"])
def test_greedy_answers_are_the_same_from_every_back_end(
    engines: dict[str, Engine], recipe: Recipe, prompt: str
) -> None:
    answers = {name: "".join(engine.generate(prompt, recipe.serve)) for name, engine in engines.items()}
    assert answers["hf"] == answers["onnx"] == answers["checkpoint"]
    assert answers["gguf"].rstrip("\ufffd") == answers["checkpoint"].rstrip("\ufffd")
    assert len(answers["checkpoint"]) > 10


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_seed_gives_the_same_answer_again_and_another_seed_another(
    engines: dict[str, Engine], recipe: Recipe, name: str
) -> None:
    def say(seed: int) -> str:
        settings = recipe.serve.model_copy(update={"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": seed})
        return "".join(engines[name].generate("import", settings))

    assert say(2**40 + 3) == say(2**40 + 3)
    assert say(1) != say(2)


@pytest.mark.parametrize("name", BACK_ENDS)
def test_an_answer_is_cut_at_max_tokens_and_counted(engines: dict[str, Engine], recipe: Recipe, name: str) -> None:
    generation = engines[name].generate("import re", recipe.serve.model_copy(update={"max_tokens": 5}))
    assert len(list(generation)) >= 1
    outcome = generation.outcome
    assert (outcome.finish_reason, outcome.generated_tokens) == ("length", 5)
    assert outcome.prompt_tokens == len(engines[name].encode("import re"))
    assert outcome.tokens_per_second > 0


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_repetition_penalty_changes_a_greedy_answer(engines: dict[str, Engine], recipe: Recipe, name: str) -> None:
    harsh = recipe.serve.model_copy(update={"repetition_penalty": 5.0})
    assert "".join(engines[name].generate("import", harsh)) != "".join(engines[name].generate("import", recipe.serve))


@pytest.mark.parametrize("back_end", ["checkpoint", "gguf", "onnx"])
def test_an_answer_ends_where_the_context_ends(recipe: Recipe, places: dict[str, str], back_end: str) -> None:
    small = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"context_tokens": 16})})
    with Engine.open(places[back_end], small) as engine:
        generation = engine.generate("import re", small.serve)
        list(generation)
        assert generation.outcome.finish_reason == "length"
        assert generation.outcome.prompt_tokens + generation.outcome.generated_tokens == 16
        with pytest.raises(UserError, match=r"the prompt \(301 tokens\) must be shorter than the context .*16 tokens"):
            engine.generate("~" * 300, small.serve)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_a_context_longer_than_the_models_is_refused(recipe: Recipe, places: dict[str, str], back_end: str) -> None:
    long = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"context_tokens": 4096})})
    with pytest.raises(UserError, match=r"serve.context_tokens \(4,096\) must not exceed .*\(2,048\); lower it"):
        Engine.open(places[back_end], long)


@pytest.mark.parametrize("name", BACK_ENDS)
def test_an_answer_can_be_broken_off_and_the_next_is_whole(
    engines: dict[str, Engine], recipe: Recipe, name: str
) -> None:
    expected = "".join(engines[name].generate("import re", recipe.serve))
    long = engines[name].generate("import re", recipe.serve.model_copy(update={"max_tokens": 1500}))
    begun = next(long) + next(long)
    long.close()
    assert long.outcome.finish_reason == "interrupted"
    assert list(long) == []
    assert expected.startswith(begun)
    assert "".join(engines[name].generate("import re", recipe.serve)) == expected


def test_bytes_that_are_no_utf8_in_a_prompt_are_refused(engines: dict[str, Engine], recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"not UTF-8 \(U\+DCFF at character 2\); convert it"):
        engines["checkpoint"].generate("ab\udcff", recipe.serve)


def test_a_run_its_train_folder_and_its_step_all_open_the_checkpoint(recipe: Recipe) -> None:
    train = recipe.folder("train")
    for where in (train.parent, train, train / "step-00000002"):
        with Engine.open(str(where), recipe) as engine:
            assert engine.name == str(train / "step-00000002")


def test_what_is_no_model_is_refused_with_what_was_expected(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    for name, found in (("nowhere", "does not exist"), ("notes.txt", "file of another kind"), ("empty", "it has none")):
        with pytest.raises(
            UserError, match=f"must be a .gguf or .onnx file, a Hugging Face folder.*{found}; correct the path"
        ):
            Engine.open(str(tmp_path / name), recipe)
    for name in ("missing.gguf", "missing.onnx"):
        with pytest.raises(UserError, match=rf"there is no file .*{name}"):
            Engine.open(str(tmp_path / name), recipe)
    with pytest.raises(UserError, match="holds a tokenizer, but a train is needed"):
        Engine.open(str(recipe.folder("tokenizer")), recipe)


def test_a_folder_without_a_tokenizer_is_refused(recipe: Recipe, places: dict[str, str], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(Path(places["hf"]) / name, tmp_path / name)
    with pytest.raises(UserError, match="has no tokenizer that can be opened"):
        Engine.open(str(tmp_path), recipe)


def test_a_checkpoint_made_with_another_tokenizer_is_refused(runs: Path, recipe: Recipe, tmp_path: Path) -> None:
    shutil.copytree(runs / "tiny" / "train", tmp_path / "tiny" / "train")
    shutil.copytree(runs / "tiny" / "tokenizer", tmp_path / "tiny" / "tokenizer")
    manifest = tmp_path / "tiny" / "train" / "step-00000002" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["parents"]["tokenizer"]["fingerprint"] = "0" * 64
    reseal(manifest.parent, content)
    with pytest.raises(UserError, match="was made from tokenizer 000000000000, but"):
        Engine.open(str(tmp_path / "tiny"), recipe)


@pytest.fixture
def adapters(recipe: Recipe, tmp_path: Path) -> dict[str, Adapter]:
    """Two adapters of the tiny run by their folders, one of another checkpoint, and one that says no base."""
    checkpoint = recipe.artifact("train")
    model, made = load_model(checkpoint.path), {}
    for number, (name, base) in enumerate(
        [("one", checkpoint.fingerprint), ("two", checkpoint.fingerprint), ("other", "f" * 64), ("silent", "")]
    ):
        empty = fresh(model, LoraConfig(rank=2), number)
        draw = torch.Generator().manual_seed(number)
        tensors = {
            matrix: {**parts, "b": torch.randn(parts["b"].shape, generator=draw) / 3}
            for matrix, parts in empty.tensors.items()
        }
        made[str(tmp_path / name)] = Adapter(empty.config, tensors, base)
        save_adapter(made[str(tmp_path / name)], tmp_path / name)
    return made


def test_adapters_change_places_beside_one_base_and_answer_as_if_merged(
    recipe: Recipe, adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    def said(engine: Engine) -> str:
        return "".join(engine.generate("def main", recipe.serve))

    with Engine.open("", recipe) as engine:
        base, answers = said(engine), []
        weight = engine.backend.model.blocks[0].ffn.up.weight.data_ptr()
        for name in ("one", "two", "silent"):
            engine.adapt(str(tmp_path / name))
            merged = load_model(recipe.artifact("train").path)
            attach(merged, adapters[str(tmp_path / name)])
            merge(merged)
            ids = torch.tensor([engine.encode("def main")])
            torch.testing.assert_close(engine.backend.model(ids), merged(ids), atol=1e-4, rtol=0)
            answers.append(said(engine))
            assert engine.backend.model.blocks[0].ffn.up.weight.data_ptr() == weight, "the base is held once"
        assert len({base, *answers}) == 4
        with pytest.raises(
            UserError, match=r"was trained beside checkpoint ffffffffffff, but .* is .*; name the check"
        ):
            engine.adapt(str(tmp_path / "other"))
        assert said(engine) == answers[-1]
        engine.adapt("")
        assert said(engine) == base


def test_an_adapter_may_be_named_at_the_start_and_only_beside_a_model_in_torch(
    recipe: Recipe, places: dict[str, str], adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    chosen = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"adapter": str(tmp_path / "one")})})
    with Engine.open("", recipe) as plain, Engine.open(places["hf"], chosen) as other, Engine.open("", chosen) as ours:
        plain.adapt(str(tmp_path / "one"))
        told = {"".join(engine.generate("def main", recipe.serve)) for engine in (plain, other, ours)}
        assert len(told) == 1
    stranger = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"adapter": str(tmp_path / "other")})})
    for place in ("", places["hf"]):
        with pytest.raises(
            UserError, match=r"was trained beside checkpoint ffffffffffff, but .* is .*; name the check"
        ):
            Engine.open(place, stranger)
    for name in ("gguf", "onnx"):
        with pytest.raises(
            UserError, match=r"serve\.adapter \(.*\) cannot go beside .*; name a checkpoint or a Hugging"
        ):
            Engine.open(places[name], chosen)
    assert adapters


def test_whether_a_model_was_trained_on_chat_comes_from_its_checkpoint(
    recipe: Recipe, places: dict[str, str], tmp_path: Path
) -> None:
    assert trained_on_chat(Path(places["hf"])) is False
    assert trained_on_chat(Path(places["gguf"])) is False
    assert trained_on_chat(recipe.folder("train") / "step-00000002") is False
    lone = tmp_path / "a" / "b" / "lone.gguf"
    assert trained_on_chat(lone) is None
    lone.parent.mkdir(parents=True)
    (lone.parent / "manifest.json").write_text('{"name": "of a browser extension"}')
    assert trained_on_chat(lone) is None
    manifest = json.loads((recipe.folder("train") / "step-00000002" / "manifest.json").read_text())
    manifest["counts"]["conversations"] = True
    reseal(lone.parent, manifest)
    assert trained_on_chat(lone) is True
    later = tmp_path / "c" / "d"  # trained on texts, from a model that knows conversations
    later.mkdir(parents=True)
    initial = {"fingerprint": "", "kind": "train", "path": "../../a/b", "settings": {}}
    texts = {**manifest, "counts": {}, "parents": {**manifest["parents"], "initial": initial}}
    reseal(later, texts)
    assert trained_on_chat(later) is True
    manifest["kind"] = "export"
    manifest["parents"]["train"] = {"fingerprint": "", "kind": "train", "path": ".", "settings": {}}
    reseal(lone.parent, manifest)
    assert trained_on_chat(lone) is None  # and comes to an end
