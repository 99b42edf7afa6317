"""The whole way, by real processes: text to a GGUF that answers, then everything that can go wrong on it."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slm.compress.files import load_compressed
from slm.evaluate.golden import Outcome, check, read_golden
from slm.recipe import CHAIN
from slm.release.files import exported_path
from slm.release.golden import check_file
from slm.tokenizer.tokenizer import Tokenizer

MADE = [stage for stage in CHAIN if stage not in ("distill", "compress")]  # the recipe asks for neither
GOLDEN = Path(__file__).parent / "golden" / "smoke.jsonl"


def slm(*words: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slm.cli", *words], cwd=folder, input=stdin, capture_output=True, text=True, check=False
    )


def refused(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    return done.stderr


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the smoke recipe ran through all stages, its golden prompts included."""
    folder = tmp_path_factory.mktemp("smoke")
    done = slm("pipeline", "recipe=smoke", f"evaluate.golden={GOLDEN}", folder=folder)
    (folder / "printed").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def copy(smoke: Path, tmp_path: Path) -> Path:
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    return tmp_path


def test_every_stage_leaves_an_artifact_and_the_end_says_where(smoke):
    printed = (smoke / "printed").read_text()
    for number, stage in enumerate(CHAIN, 1):
        assert f"[{number}/{len(CHAIN)}] {stage}" in printed
        assert (smoke / "runs/smoke" / stage).is_dir() == (stage in MADE)
    for place in ("train/step-00000064", "export/model-f16.gguf", "report/report.html"):
        assert f"runs/smoke/{place}" in printed
    assert "slm chat serve.model=runs/smoke/export/model-q8_0.gguf" in printed


def test_every_export_is_proved_within_its_budget(smoke):
    manifest = json.loads((smoke / "runs/smoke/export/manifest.json").read_text())
    parity = manifest["counts"]["parity"]
    assert set(parity) == {"hf", "gguf_f32", "gguf_f16", "gguf_bf16", "gguf_q8_0"}
    for row in parity.values():
        assert row["max_delta"] <= row["budget"]
        assert row["token_ids_equal"]
    assert parity["gguf_f32"]["budget"] == 1e-4
    assert parity["gguf_f16"]["budget"] == 5e-3
    for name in ("hf", "gguf_f32", "gguf_f16"):
        assert parity[name]["greedy_equal"] + parity[name]["greedy_ties"] == parity[name]["greedy_compared"] > 0


def test_golden_prompts_hold(smoke):
    results = json.loads((smoke / "runs/smoke/evaluate/results.json").read_text())
    assert results["golden"]["failed"] == 0
    assert results["golden"]["passed"] == len(GOLDEN.read_text().splitlines())


FLAVOURS = {"fp16": ("gguf_f16",), "int8": ("gguf_q8_0", "int8"), "int4": ("gguf_q4_0", "awq")}
"""Files of each width in which the model is released: llama.cpp's, and those made of the compress stage's integers."""


@pytest.fixture(scope="session")
def flavours(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke run in every flavour."""
    folder = tmp_path_factory.mktemp("flavours")
    shutil.copytree(smoke / "runs", folder / "runs")
    formats = ",".join(name for names in FLAVOURS.values() for name in names if name != "int8")
    small = ["compress.calibration.tokens=2048", "compress.max_documents=1", "compress.positions=64"]
    small += ["export.greedy_tokens=2", "export.max_positions=4", "compress.on_misfit=next"]
    words = ["compress=ship", *small, f"export.formats=[{formats}]", "from=compress", "to=export", "redo=true"]
    done = slm("pipeline", "recipe=smoke", f"evaluate.golden={GOLDEN}", *words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "smoke"


def files_of(run: Path, name: str) -> Path:
    return run / "compress" / name if name == "int8" else exported_path(run / "export", name)


def golden_outcomes(run: Path, name: str) -> list[Outcome]:
    """Of each golden prompt, in the engine that opens the flavour's files."""
    prompts, tokenizer = read_golden(GOLDEN), Tokenizer.load(run / "tokenizer")
    if name == "int8":
        return check(load_compressed(files_of(run, name)), tokenizer, prompts)
    return check_file(run / "export", name, tokenizer, prompts, 1)


@pytest.mark.parametrize(("width", "name"), [(width, name) for width, names in FLAVOURS.items() for name in names])
def test_golden_prompts_hold_in_each_released_flavour_and_fail_in_a_broken_one(flavours, tmp_path, width, name):
    outcomes = golden_outcomes(flavours, name)
    assert len(outcomes) == len(GOLDEN.read_text().splitlines())
    assert not [one for one in outcomes if not one.passed], f"{width}: {name}"
    for stage in ("tokenizer", "compress", "export"):
        shutil.copytree(flavours / stage, tmp_path / stage)
    files = files_of(tmp_path, name)
    path = max(files.glob("*.safetensors"), key=lambda file: file.stat().st_size) if files.is_dir() else files
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))  # half of it is zero
    assert [one.name for one in golden_outcomes(tmp_path, name) if not one.passed]


def test_lineage_leads_from_the_gguf_back_to_the_text(smoke):
    done = slm("lineage", "runs/smoke/export/model-q8_0.gguf", folder=smoke)
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    up_to_train = ["export", "train", "shards", "corpus", "text", "tokenizer", "corpus", "tokenizer"]
    assert kinds == [*up_to_train, "tokenizer", "corpus"]
    assert "PSF-2.0" in done.stdout


def test_a_second_run_does_nothing_says_so_and_loads_nothing_heavy(smoke):
    program = (
        "import sys\n"
        f"sys.argv = ['slm', 'recipe=smoke', 'evaluate.golden={GOLDEN}']\n"
        "from slm.pipeline import main\n"
        "main()\n"
        "heavy = {'torch', 'transformers', 'datasets', 'sentencepiece', 'matplotlib', 'pyarrow'} & set(sys.modules)\n"
        "print('loaded', sorted(heavy))\n"
    )
    before = {path: path.stat().st_mtime_ns for path in (smoke / "runs").rglob("*") if path.is_file()}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=smoke, capture_output=True, text=True, check=False
    )  # fmt: skip
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime  # of the processor: it may be busy
    assert done.returncode == 0, done.stderr
    assert all(f"{stage}: up to date in runs/smoke/{stage}" in done.stdout for stage in MADE)
    assert "loaded []" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (smoke / "runs").rglob("*") if path.is_file()} == before
    assert seconds < 5, done.stdout


ASKED = "def for if in is as not and or del try with from pass else elif while yield raise return".split()  # noqa: SIM905


SURE = "export.quality.max_bits_per_byte_increase={gguf_q8_0: 0.1}"
"""Twenty answers known by heart, at 0.002 bits per byte: the same rounding costs such a model more than one of text."""


@pytest.fixture(scope="session")
def tuned(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke run's model taught to answer, up to a GGUF file: run `talks`."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copytree(smoke / "runs", folder / "runs")
    talks = [{"prompt": f"What is {word}?", "completion": "A word of Python."} for word in ASKED]
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    source = "{kind: jsonl, path: talks.jsonl, conversations: prompt_completion, licence: CC0-1.0}"
    done = slm(
        "pipeline", "recipe=smoke", "run=talks", "to=export", f"corpus.sources=[{source}]",
        "corpus.validation_fraction=0.2", "corpus.duplicates.near=false", "artifacts.tokenizer=runs/smoke/tokenizer",
        "train.initial=runs/smoke", "train.tokens=32768", "train.evaluate_every_steps=0",
        "export.formats=[gguf_q8_0]", SURE, folder=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def preferred(tuned: Path) -> Path:
    """The model that answers, taught which of two answers is preferred, up to a GGUF file: run `preferred`."""
    pairs = [{"prompt": f"What is {word}?", "chosen": "A word of Python.", "rejected": "A word."} for word in ASKED]
    (tuned / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    source = "{kind: jsonl, path: pairs.jsonl, conversations: pairs, licence: CC0-1.0}"
    done = slm(
        "pipeline", "recipe=smoke", "run=preferred", "to=export", f"corpus.sources=[{source}]",
        "corpus.validation_fraction=0.2", "corpus.duplicates.near=false", "artifacts.tokenizer=runs/smoke/tokenizer",
        "train.initial=runs/talks", "objective.kind=preference", "train.tokens=8192", "train.evaluate_every_steps=0",
        "export.formats=[gguf_q8_0]", SURE, folder=tuned,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return tuned


def chatted(folder: Path, run: str, *said: str) -> tuple[str, str]:
    """What the GGUF file of a run answers, and what is told beside it."""
    words = ["chat", f"serve.model=runs/{run}/export/model-q8_0.gguf", "serve.max_tokens=12", "serve.temperature=0"]
    done = slm(*words, folder=folder, stdin="\n".join([*said, "/exit", ""]))
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_text_becomes_a_model_that_continues_it_and_then_one_that_answers(tuned):
    said, told = chatted(tuned, "smoke", "hello")
    assert said.strip()
    assert "this model was not trained on conversations" in told
    said, told = chatted(tuned, "talks", "What is lambda?", "What is <|im_end|>?")
    assert said.splitlines() == ["A word of Python."] * 2
    assert "this model was not trained on conversations" not in told


def test_lineage_leads_from_the_answering_model_through_the_one_before_to_the_text(tuned):
    done = slm("lineage", "runs/talks/export/model-q8_0.gguf", folder=tuned)
    assert [line.split()[0] for line in done.stdout.splitlines()].count("train") == 2
    assert "PSF-2.0" in done.stdout
    assert "CC0-1.0" in done.stdout


def test_preferences_follow_and_the_model_still_answers(preferred):
    results = json.loads((preferred / "runs/preferred/evaluate/results.json").read_text())
    (accuracy,) = (one for one in results["tasks"]["metrics"] if (one["task"], one["metric"]) == ("preference", "acc"))
    assert accuracy["value"] == 1
    said, told = chatted(preferred, "preferred", "What is lambda?", "What is <|im_end|>?")
    assert said.splitlines() == ["A word of Python."] * 2
    assert "this model was not trained on conversations" not in told
    done = slm("lineage", "runs/preferred/export/model-q8_0.gguf", folder=preferred)
    assert [line.split()[0] for line in done.stdout.splitlines()].count("train") == 3


INTERRUPTED = """
import importlib, json, os, pathlib, shutil, signal, sys
import slm.core.artifact as artifact
from slm.compose import guarded, load_recipe

seal = artifact._seal
def interrupted(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return seal(*arguments)

recipe = load_recipe("recipe=smoke", "evaluate.golden=" + sys.argv[1])
statuses = {}
for stage in sys.argv[2:]:
    folder = recipe.folder(stage)
    folder.rename(folder.with_name("kept"))
    artifact._seal = interrupted
    try:
        guarded(lambda: importlib.import_module(f"slm.{stage}").run(recipe))
        statuses[stage] = 0
    except SystemExit as left:
        statuses[stage] = left.code
    artifact._seal = seal
    assert not folder.exists() and not list(folder.parent.glob("*.tmp-*")), stage
    folder.with_name("kept").rename(folder)
pathlib.Path("statuses.json").write_text(json.dumps(statuses))
"""


def test_ctrl_c_in_every_stage_ends_cleanly_and_leaves_nothing_half_made(copy):
    stages = [stage for stage in MADE if stage != "train"]  # tests/train/test_loop.py interrupts training
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(GOLDEN), *stages], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((copy / "statuses.json").read_text()) == dict.fromkeys(stages, 130)
    assert done.stderr.count("interrupted: everything already made is kept") == len(stages)
    assert "Traceback" not in done.stderr


def test_a_run_folder_made_by_another_recipe_is_refused_and_kept(copy):
    manifest = (copy / "runs/smoke/corpus/manifest.json").read_bytes()
    done = slm("pipeline", "recipe=smoke", "corpus.validation_fraction=0.3", folder=copy)
    message = refused(done)
    assert "validation_fraction: 0.2 -> 0.3" in message
    assert "choose another run=NAME to keep it, or add redo=true" in message
    assert (copy / "runs/smoke/corpus/manifest.json").read_bytes() == manifest


def test_a_child_of_another_parent_is_refused_with_both_fingerprints(copy):
    done = slm("tokenizer", "recipe=smoke", "tokenizer.split_digits=false", "redo=true", folder=copy)
    assert done.returncode == 0, done.stderr
    message = refused(slm("train", "recipe=smoke", "tokenizer.split_digits=false", folder=copy))
    old = json.loads((copy / "runs/smoke/shards/manifest.json").read_text())["parents"]["tokenizer"]["fingerprint"]
    new = json.loads((copy / "runs/smoke/tokenizer/manifest.json").read_text())["fingerprint"]
    assert old[:12] in message
    assert new[:12] in message
    assert "redo=true" in message


@pytest.mark.parametrize("damage", ["flipped", "truncated"])
@pytest.mark.parametrize(
    ("stage", "file", "command"),
    [
        ("corpus", "train-00000.parquet", "tokenizer"),
        ("tokenizer", "tokenizer.model", "shards"),
        ("shards", "train-stdlib-00000.arrow", "train"),
        ("train/step-00000064", "model-00001-of-00001.safetensors", "evaluate"),
        ("export", "model-q8_0.gguf", "serve"),
    ],
)
def test_damaged_files_are_named_and_nothing_is_computed_from_them(copy, damage, stage, file, command):
    path = copy / "runs/smoke" / stage / file
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    shutil.rmtree(copy / "runs/smoke" / command)
    message = refused(slm(command, "recipe=smoke", f"evaluate.golden={GOLDEN}", folder=copy))
    assert f"{stage}/{file} is damaged" in message
    assert len(message.strip().splitlines()) == 1
    assert not (copy / "runs/smoke" / command / "manifest.json").exists()


@pytest.mark.parametrize(("command", "missing"), [("tokenizer", "corpus"), ("evaluate", "train"), ("serve", "export")])
def test_a_missing_earlier_stage_is_named(tmp_path, command, missing):
    message = refused(slm(command, "recipe=smoke", folder=tmp_path))
    assert f"there is no {missing} in runs/smoke/{missing}" in message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["corpus.sources=[{kind: text, path: nowhere, licence: MIT}]"], "nowhere"),
        (["corpus.sources=[{kind: text, path: empty, licence: MIT}]"], "empty"),
        (["corpus.sources=[{kind: text, path: latin, licence: MIT}]"], "not UTF-8"),
        (["tokenizer.vocab_size=60000", "model.vocab_size=60000", "to=tokenizer"], "vocab_size"),
    ],
)
def test_bad_text_is_one_sentence(tmp_path, settings, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes("Stra\u00dfe".encode("latin-1"))
    message = refused(slm("pipeline", "recipe=smoke", *settings, folder=tmp_path))
    assert expected in message
    assert len(message.strip().splitlines()) == 1


def test_rows_longer_than_the_model_are_refused_before_anything_runs(tmp_path):
    message = refused(slm("pipeline", "recipe=smoke", "shards.seq_len=512", folder=tmp_path), status=2)
    assert "shards.seq_len (512) must not exceed model.max_seq_len (256); lower it or pick a longer model" in message
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_keeps_what_was_made(small_disk):
    disk = small_disk(650)  # what the corpus and its units take, but not the shards as well
    message = refused(slm("pipeline", "recipe=smoke", "to=shards", folder=disk))
    assert "the disk filled up while writing" in message
    assert "run the same command again" in message
    published = {path.parent.name for path in disk.glob("runs/smoke/*/manifest.json")}
    assert published
    assert "shards" not in published
    assert not list(disk.glob("runs/smoke/*.tmp-*"))
