import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf as gguf_library
import pytest
import torch

from slm.core.artifact import MANIFEST, Artifact, Spec, create
from slm.core.errors import DamagedError, UserError
from slm.export import run, stage
from slm.export.config import ExportConfig
from slm.export.subject import Dataset
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from slm.tokenizer.config import TokenizerConfig

Save = Callable[[Recipe, Transformer, int], Artifact]
ModelOf = Callable[..., Transformer]


def with_export(recipe: Recipe, **changes: object) -> Recipe:
    section = ExportConfig.model_validate(recipe.export.model_dump() | changes)
    return recipe.model_copy(update={"export": section})


def only(recipe: Recipe, *formats: str) -> Recipe:
    return with_export(recipe, formats=formats)


def nothing_published(recipe: Recipe) -> bool:
    left = {path.name for path in recipe.folder("export").parent.iterdir()}
    return left == {"corpus", "tokenizer", "train"}


def test_a_run_publishes_every_format_with_its_proof(run_recipe: Recipe, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = run(run_recipe)
    files = set(artifact.manifest["files"])
    assert {f"model-{kind}.gguf" for kind in ("f32", "f16", "bf16", "q8_0")} | {"parity.json"} < files
    assert {"hf/config.json", "hf/model.safetensors", "hf/tokenizer.json", "hf/chat_template.jinja"} < files
    parity = artifact.counts["parity"]
    assert list(parity) == list(run_recipe.export.formats)
    proof = json.loads(artifact.file("parity.json").read_text(encoding="utf-8"))
    assert proof["formats"] == parity
    assert proof["prompts"] == list(run_recipe.export.prompts)
    assert set(proof["engines"]) == {"transformers", "gguf", "xllamacpp"}
    assert parity["gguf_q8_0"]["size_bytes"] == artifact.file("model-q8_0.gguf").stat().st_size
    assert set(artifact.manifest["parents"]) == {"train", "tokenizer"}
    assert artifact.counts["step"] == 20
    reader = gguf_library.GGUFReader(artifact.file("model-f16.gguf"))
    assert reader.fields["general.license"].contents() == "PSF-2.0"
    assert reader.fields["slm.checkpoint"].contents() == run_recipe.artifact("train").fingerprint
    printed = capfd.readouterr()
    assert printed.err == ""
    assert [line.split()[0] for line in printed.out.splitlines() if line.startswith(("  hf", "  gguf"))] == list(
        run_recipe.export.formats
    )


def test_an_export_that_is_there_is_found_without_heavy_imports(run_recipe: Recipe, tmp_path: Path) -> None:
    recipe = only(run_recipe, "gguf_f32")
    made = run(recipe)
    assert run(with_export(recipe, threads=1)).fingerprint == made.fingerprint
    program = (
        "import sys\nfrom pathlib import Path\nfrom slm.recipe import Recipe\nfrom slm.export import run\n"
        "run(Recipe.model_validate_json(Path(sys.argv[1]).read_text()))\n"
        "print([name for name in ('torch', 'transformers', 'gguf', 'numpy', 'xllamacpp') if name in sys.modules])\n"
    )
    stored = tmp_path / "recipe.json"
    stored.write_text(recipe.model_dump_json(), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", program, str(stored)], capture_output=True, text=True, check=True)
    assert f"export: up to date in {recipe.folder('export')}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_new_checkpoint_is_another_export(run_recipe: Recipe, save_checkpoint: Save, model_of: ModelOf) -> None:
    recipe = only(run_recipe, "gguf_q8_0")
    first = run(recipe)
    save_checkpoint(recipe, model_of(rope_theta=20_000.0), 40)
    with pytest.raises(UserError, match=r"was made by another recipe or from other data \(parents\.train: "):
        run(recipe)
    second = run(recipe.model_copy(update={"redo": True}))
    assert second.fingerprint != first.fingerprint
    assert second.counts["step"] == 40


def test_a_file_over_its_budget_publishes_nothing(run_recipe: Recipe) -> None:
    recipe = with_export(run_recipe, formats=("gguf_f32", "gguf_q8_0"), max_logprob_delta_q8_0=1e-5)
    with pytest.raises(
        UserError, match=r"gguf_q8_0 failed its proof: .* above export\.max_logprob_delta_q8_0 \(1e-05\)"
    ):
        run(recipe)
    assert nothing_published(recipe)


def test_golden_prompts_are_part_of_the_proof_and_of_what_the_export_is_made_from(
    run_recipe: Recipe, tmp_path: Path
) -> None:
    table = tmp_path / "golden.jsonl"
    table.write_text('{"name": "a", "prompt": "golden text", "pattern": "x"}\n\n', encoding="utf-8")
    recipe = only(run_recipe, "gguf_f32")
    recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"golden": str(table)})})
    artifact = run(recipe)
    prompts = json.loads(artifact.file("parity.json").read_text(encoding="utf-8"))["prompts"]
    assert prompts == [*recipe.export.prompts, "golden text"]
    table.write_text('{"name": "a", "prompt": "other", "pattern": "x"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"inputs\.golden"):
        run(recipe)
    table.write_text('{"prompt": "a"}\n{"name": "b"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"golden\.jsonl line 2 is not a JSON object with a prompt \(KeyError"):
        run(recipe.model_copy(update={"redo": True}))
    table.unlink()
    with pytest.raises(UserError, match=r"evaluate\.golden \(.*golden\.jsonl\) is not a file; correct the path"):
        run(recipe)


def test_without_a_checkpoint_there_is_nothing_to_export(run_recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"there is no train in .*make it with the same settings"):
        run(run_recipe.model_copy(update={"run": "other"}))


def test_a_damaged_checkpoint_is_refused(run_recipe: Recipe) -> None:
    weights = next(run_recipe.artifact("train").path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedError, match=r"safetensors is damaged: its sha256 is not the one in its manifest"):
        run(run_recipe)
    assert nothing_published(run_recipe)


def test_a_checkpoint_with_nan_is_refused(run_recipe: Recipe, save_checkpoint: Save, model_of: ModelOf) -> None:
    model = model_of()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    save_checkpoint(run_recipe, model, 40)
    with pytest.raises(DamagedError, match=r"norm\.weight holds NaN or infinity"):
        run(run_recipe)
    assert nothing_published(run_recipe)


def test_another_tokenizer_than_the_checkpoints_is_refused(run_recipe: Recipe) -> None:
    folder = run_recipe.folder("tokenizer")
    with create(folder, Spec("tokenizer", TokenizerConfig(vocab_size=999))) as draft:
        draft.counts["hash"] = "0"
    with pytest.raises(
        UserError, match=r"was made from tokenizer [0-9a-f]{12}, but .* is [0-9a-f]{12}; point artifacts"
    ):
        run(run_recipe)


def test_a_tokenizer_that_is_not_the_one_its_manifest_names_is_refused(run_recipe: Recipe, tmp_path: Path) -> None:
    content = run_recipe.artifact("tokenizer").file("tokenizer.model").read_bytes()
    checkpoint = run_recipe.artifact("train")
    with create(tmp_path / "tokenizer", Spec("tokenizer", TokenizerConfig())) as draft:
        (draft.path / "tokenizer.model").write_bytes(content)
        draft.counts["hash"] = "0" * 64
    other = Artifact(tmp_path / "tokenizer", json.loads((tmp_path / "tokenizer" / MANIFEST).read_text()))
    with pytest.raises(DamagedError, match=r"holds tokenizer [0-9a-f]{12}, but its manifest records 000000000000"):
        stage._subject(run_recipe, checkpoint, other)


def test_a_vocabulary_of_another_size_is_refused(run_recipe: Recipe, save_checkpoint: Save, model_of: ModelOf) -> None:
    save_checkpoint(run_recipe, model_of(vocab_size=512), 40)
    with pytest.raises(UserError, match=r"has model\.vocab_size 512, but .* has 448 ids; point artifacts\.tokenizer"):
        run(run_recipe)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("hf", "transformers", "transformers"),
        ("gguf_f16", "gguf", "gguf"),
        ("gguf_f32", "xllamacpp", "xllamacpp"),
        ("onnx", "onnxruntime", r"'slm\[onnx\]'"),
        ("onnx_int8", "onnx", r"'slm\[onnx\]'"),
    ],
)
def test_a_package_that_is_not_installed_is_named_before_any_work(
    name: str, package: str, install: str, run_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda word: None if word == package else find(word))
    message = (
        rf"export\.formats \({name}\) needs the package {package}, which is not installed; pip install {install}, or"
    )
    with pytest.raises(UserError, match=message):
        run(only(run_recipe, name))
    assert nothing_published(run_recipe)


def test_a_model_that_gguf_cannot_hold_is_refused_before_any_file_is_written(
    run_recipe: Recipe, save_checkpoint: Save, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(run_recipe, model_of(sliding_window=16), 40)
    monkeypatch.setattr(stage, "_export", lambda *_: pytest.fail("work began"))
    with pytest.raises(UserError, match=r"model\.sliding_window \(16\) cannot go into a GGUF file"):
        run(only(run_recipe, "hf", "gguf_f32"))


def test_a_disk_that_fills_publishes_nothing(run_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise OSError("4096 requested and 1024 written")

    monkeypatch.setattr(gguf_library.GGUFWriter, "write_tensor_data", short)
    with pytest.raises(UserError, match=r"the disk filled up while writing .*export"):
        run(only(run_recipe, "gguf_f32"))
    assert nothing_published(run_recipe)


def test_an_interruption_leaves_nothing_and_no_process(run_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from slm.export import gguf

    seen = []

    def interrupted(engine: gguf.LlamaEngine, *_: object) -> None:
        seen.append(engine._llama._process)
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf.LlamaEngine, "scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(only(run_recipe, "gguf_f32"))
    assert nothing_published(run_recipe)
    assert seen[0] is not None
    assert seen[0].poll() is not None


def test_notices_are_printed_and_recorded(
    run_recipe: Recipe, save_checkpoint: Save, model_of: ModelOf, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(run_recipe, model_of(ffn_width=88), 40)
    artifact = run(only(run_recipe, "gguf_q8_0"))
    notice = "gguf_q8_0: blocks.0.ffn.down.weight and 1 more, with rows of 88, do not fall into its blocks"
    assert [f"{notice} and are stored as F16"] == artifact.counts["notices"]
    assert f"export: {notice}" in capsys.readouterr().out


def test_the_sources_are_found_through_the_lineage_or_said_to_be_gone(
    run_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, tokenizer = run_recipe.artifact("train"), run_recipe.artifact("tokenizer")
    assert stage.datasets(checkpoint) == (Dataset("stdlib", "PSF-2.0", "the standard library"),)
    run_recipe.folder("corpus").rename(run_recipe.folder("corpus").with_name("moved"))
    assert stage._subject(run_recipe, checkpoint, tokenizer).datasets == ()
    assert "the corpus behind the checkpoint is not at hand" in capsys.readouterr().out


def test_a_training_that_has_not_ended_is_exported_and_said(
    run_recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run_recipe.artifact("train")
    unfinished = Artifact(checkpoint.path, checkpoint.manifest | {"counts": {"step": 20, "finished": False}})
    assert stage._subject(run_recipe, unfinished, run_recipe.artifact("tokenizer")).name == "tiny"
    assert "is from a training that has not ended (step 20)" in capsys.readouterr().out


def test_the_command_ends_in_a_sentence_and_a_status(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "slm.export", "recipe=smoke", f"runs_dir={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: there is no train in ")
    assert len(done.stderr.splitlines()) == 1
