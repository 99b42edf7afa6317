"""From command-line words to a recipe."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slm.compose import load_recipe, prepare_overrides
from slm.core.errors import EXIT_USAGE, ProblemsError, UserError

TRICKY = [
    "", " ", "  two leading spaces", "-", "???", "null", "1e6", "[1, 2]", "{a: b}", "a=b", "a,b", "def f():\n  pass",
    "print('x', \"y\")", "it's", "'", "''", "\\", "\\\\", "\\'", "ends in \\", "ends in \\\n", "\\n", "${x}", "\\${x}",
    "$${x}", "\\\\${a'}\\'", "${oc.env:HOME}", "${", "}", "\t\r\n", "\x0b\x85\u2028", "😀 é ▁", "#", "%s", "<|im_end|>",
]  # fmt: skip
awkward = st.lists(st.sampled_from(["\\", "'", '"', "$", "${", "{", "}", "a", " ", "\n", ",", ":", "=", "(", "["]))


@pytest.mark.parametrize("text", TRICKY)
def test_a_prompt_arrives_unchanged(text: str) -> None:
    assert load_recipe("recipe=smoke", f"serve.prompt={text}").serve.prompt == text


@settings(max_examples=25, deadline=None)
@given(st.one_of(awkward.map("".join), st.text(max_size=20)))
def test_any_prompt_arrives_unchanged(text: str) -> None:
    assert load_recipe("recipe=smoke", f"serve.prompt={text}").serve.prompt == text


def test_a_shortcut_is_as_verbatim_as_the_key_it_stands_for() -> None:
    words = {"prompt": "serve.prompt", "temperature": "serve.temperature"}
    assert prepare_overrides(["prompt=it's", "temperature=0"], words) == [
        r"++serve.prompt='it\'s'",
        "++serve.temperature=0",
    ]


def test_a_path_with_commas_and_equal_signs_arrives_unchanged() -> None:
    path = "runs/lr=0.1,width=64/export/model-f16.gguf"
    assert load_recipe("recipe=smoke", f"serve.model={path}").serve.model == path


PROGRAM = """
from slm.compose import command

def run(recipe):
    print("RUN", recipe.run, recipe.seed, recipe.train.tokens, recipe.model.layers, recipe.start, recipe.stop)

command("corpus", run, {"prompt": "serve.prompt"})
"""


def call(*words: str, cwd: Path, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    """A real process of a command that prints what it was given instead of working."""
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, cwd=cwd)
    assert "Traceback" not in done.stderr
    return done


def refused(*words: str) -> list[str]:
    """The problems with which these words are refused."""
    with pytest.raises(ProblemsError) as caught:
        load_recipe(*words)
    return caught.value.problems


def test_without_a_recipe_quickstart_is_taken() -> None:
    assert load_recipe() == load_recipe("recipe=quickstart")


def test_every_problem_is_printed_at_once_with_status_2_and_no_trace(tmp_path: Path) -> None:
    words = ["model.layres=3", "train.lr=1", "trian.tokens=1", "train.tokens=many", "shards.seq_len=4096"]
    done = call("recipe=smoke", *words, cwd=tmp_path)
    assert done.returncode == EXIT_USAGE
    assert done.stdout == ""
    assert set(done.stderr.splitlines()) == {
        "error: model.layres: no such key; did you mean layers?",
        "error: train.lr: no such key; did you mean train.optimizer.lr?",
        "error: trian: no such key; did you mean train?",
        "error: train.tokens: must be a valid integer, unable to parse string as an integer, found 'many'",
    }
    assert list(tmp_path.iterdir()) == []


def test_what_hydra_itself_refuses_is_told_in_our_words_too(tmp_path: Path) -> None:
    done = call("recipe=smoke", "+seed=7", cwd=tmp_path)
    assert done.returncode == EXIT_USAGE
    assert done.stderr.startswith("error: the settings do not fit together: Could not append to config.")
    assert done.stderr.count("\n") == 1


def test_rules_between_sections_are_problems_like_any_other() -> None:
    assert refused("recipe=smoke", "shards.seq_len=512", "tokenizer.vocab_size=900", "train.batch_tokens=4096") == [
        "shards.seq_len (512) must not exceed model.max_seq_len (256); lower it or pick a longer model",
        "model.vocab_size (768) must equal tokenizer.vocab_size (900); set both to the same number",
    ]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["recipe=smok"], "recipe=smok: no such recipe; did you mean smoke? known are .*pretrain_300m.*smoke.*"),
        (["recipe="], "recipe=: no such recipe; known are .*quickstart, .*ship, .*smoke, .*wikitext2_15m"),
        (["model=400m"], "model=400m: no such model; did you mean 300m? known are .*"),
        (["to=shard"], "to=shard: no such stage; did you mean shards? known are corpus, .*release"),
        (["from=train", "to=shards"], "from=train comes after to=shards; the order is corpus -> .*"),
        (["smoke"], "smoke: settings are given as key=value, such as recipe=quickstart"),
        (["--fast"], "--fast: no such flag; known are --cfg, --help.*"),
        (["train=5"], "train=5: train is a section; set the keys in it, such as train.tokens=..."),
        (["train.optimizer=muon"], "train.optimizer=muon: train.optimizer is a section; .* train.optimizer.kind=..."),
        (["seed=1,2"], "seed=1,2: several values need -m, which runs each; a list is written .1,2."),
        (["runs_dir=a=b"], "runs_dir=a=b: not readable .*; quote the value: runs_dir=\"'a=b'\""),
        (["train.tokens=[1"], "train.tokens=.1: not readable .*; quote the value: .*"),
        (["seed=${nope}"], "the settings do not fit together: Interpolation key 'nope' not found; .*"),
        (["run=../elsewhere"], "run: string should match pattern .*, found '../elsewhere'"),
        (["+train.tokns=1"], "train.tokns: no such key; did you mean tokens?"),
        (["corpus.sources=[{kind: txt}]"], "corpus.sources.0.kind: must be 'stdlib', .*, found 'txt'"),
        (["corpus.sources=[]"], "corpus.sources: tuple should have at least 1 item .*"),
        (["model={layers: 0}"], "model.layers: must be greater than or equal to 1, found 0"),
    ],
)
def test_a_word_that_cannot_be_meant_is_refused_in_one_sentence(words: list[str], problem: str) -> None:
    pattern = problem.replace("?", r"\?")
    (found,) = refused(*words)
    assert re.fullmatch(pattern, found), found


def test_words_of_every_kind_are_refused_together() -> None:
    assert len(refused("smoke", "--fast", "recipe=smok", "train=5", "seed=1,2")) == 5


def test_a_section_may_be_given_inline_and_numbers_in_any_notation() -> None:
    recipe = load_recipe("recipe=smoke", "model={layers: 3}", "train.tokens=1e5", "runs_dir='a=b'")
    assert (recipe.model.layers, recipe.model.width, recipe.train.tokens, recipe.runs_dir) == (3, 64, 100_000, "a=b")


def test_dictionaries_merge_and_lists_replace() -> None:
    recipe = load_recipe("recipe=smoke", "train.schedule.kind=cosine", "corpus.sources=[{kind: stdlib, name: a}]")
    assert (recipe.train.schedule.kind, recipe.train.schedule.warmup_tokens) == ("cosine", 4096)
    assert [(source.name, source.max_documents) for source in recipe.corpus.sources] == [("a", 0)]


def test_a_piece_lies_under_the_recipe_and_the_command_line_over_both() -> None:
    assert load_recipe("recipe=pretrain_300m").model.layers == 24
    chosen = load_recipe("recipe=pretrain_300m", "model=135m", "model.ffn_width=512")
    assert (chosen.model.layers, chosen.model.width, chosen.model.ffn_width) == (18, 768, 512)


def test_a_stage_range_is_given_by_from_and_to() -> None:
    recipe = load_recipe("recipe=smoke", "from=shards", "to=train")
    assert (recipe.start, recipe.stop) == ("shards", "train")


def test_recipes_beside_the_user_are_found_and_may_build_on_pieces_and_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = "tokenizer: {vocab_size: 8192}\nshards: {seq_len: 1024}\ntrain: {batch_tokens: 8192}\n"
    write_recipe(tmp_path, "mine", f"defaults: [{{override /model: 15m}}]\nrun: mine\nmodel: {{layers: 2}}\n{pieces}")
    write_recipe(tmp_path, "tiny", "defaults: [smoke]\nrun: tiny\nseed: 9")
    write_recipe(tmp_path, "smoke", "run: impostor")
    monkeypatch.chdir(tmp_path)
    mine, tiny = load_recipe("recipe=mine"), load_recipe("recipe=tiny")
    assert (mine.model.layers, mine.model.width) == (2, 512)
    assert (tiny.run, tiny.seed, tiny.model.width) == ("tiny", 9, 64)
    assert load_recipe("recipe=smoke").run == "smoke"


def test_a_broken_recipe_beside_the_user_stands_only_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, "broken", "run: [")
    write_recipe(tmp_path, "listed", "- run")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe=smoke").run == "smoke"
    with pytest.raises(UserError, match=r"broken/config.yaml is not YAML: .*line 1.*; correct it"):
        load_recipe("recipe=broken")
    with pytest.raises(UserError, match=r"listed/config.yaml must hold keys and values, found list"):
        load_recipe("recipe=listed")


def write_recipe(folder: Path, name: str, text: str) -> None:
    (folder / "recipes" / name).mkdir(parents=True)
    (folder / "recipes" / name / "config.yaml").write_text(text, encoding="utf-8")


def test_cfg_job_prints_the_composed_settings_and_runs_nothing(tmp_path: Path) -> None:
    done = call("recipe=smoke", "train.tokens=5", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0
    printed = yaml.safe_load(done.stdout)
    assert (printed["run"], printed["train"]["tokens"], printed["model"]["width"]) == ("smoke", 5, 64)
    assert list(tmp_path.iterdir()) == []


def test_help_lists_recipes_and_pieces(tmp_path: Path) -> None:
    done = call("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("slm corpus: KEY=VALUE")
    assert re.search(r"start from a recipe: .*pretrain_300m, quickstart, .*ship, smoke, .*wikitext2_15m", done.stdout)
    assert "model=135m|15m|1b|300m" in done.stdout


def test_a_sweep_runs_every_combination_under_its_own_run_name(tmp_path: Path) -> None:
    done = call("recipe=smoke", "-m", "seed=1,2", cwd=tmp_path)  # a flag may stand anywhere
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["RUN smoke-0 1 131072 2 corpus report", "RUN smoke-1 2 131072 2 corpus report"]


def test_a_sweep_may_name_its_runs_and_ends_at_a_refused_one(tmp_path: Path) -> None:
    done = call("-m", "recipe=smoke", "run=a,b", "train.tokens=131072", cwd=tmp_path)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["a", "b"]
    done = call("-m", "recipe=smoke", "model.layers=1,0,2", cwd=tmp_path)
    assert done.returncode == EXIT_USAGE
    assert done.stdout.splitlines() == ["RUN smoke-0 1234 131072 1 corpus report"]
    assert done.stderr == "error: model.layers: must be greater than or equal to 1, found 0\n"


def test_a_shortcut_reaches_its_key_and_nothing_is_left_behind(tmp_path: Path) -> None:
    program = PROGRAM.replace("recipe.run,", "repr(recipe.serve.prompt),")
    done = call("recipe=smoke", "prompt=it's [1", cwd=tmp_path, program=program)
    assert done.stdout.startswith('RUN "it\'s [1" 1234')
    assert list(tmp_path.iterdir()) == []


ENDINGS = {
    "interrupt": ("raise KeyboardInterrupt", 130, "interrupted: everything already made is kept; the same command"),
    "terminate": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 85, "stopped (SIGTERM): everything already"),
    "requeue": ("os.kill(os.getpid(), signal.SIGUSR1); time.sleep(5)", 85, "stopped (SIGUSR1): everything already"),
    "user error": ("raise UserError('a is b; do c')", 1, "error: a is b; do c\n"),
    "disk full": ("raise OSError(errno.ENOSPC, 'No space left', 'f')", 1, "error: the disk is full (f); free some"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_a_person_can_mend_ends_in_a_sentence_and_a_status(ending: str, tmp_path: Path) -> None:
    statement, status, message = ENDINGS[ending]
    program = (
        "import errno, os, signal, time\nfrom slm.compose import guarded\nfrom slm.core.errors import UserError\n"
        f"def work():\n    print('begun')\n    {statement}\nguarded(work)"
    )
    done = call(cwd=tmp_path, program=program)
    assert done.returncode == status
    assert done.stdout == "begun\n"
    assert done.stderr.startswith(message)


def test_a_reader_that_goes_away_ends_the_command_without_a_word(tmp_path: Path) -> None:
    program = "from slm.compose import guarded\nguarded(lambda: [print('x' * 99, flush=True) for _ in range(100000)])"
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["x" * 99, "1"]
    assert done.stderr == ""


def test_a_defect_of_ours_keeps_its_trace(tmp_path: Path) -> None:
    program = PROGRAM.replace('print("RUN"', '1 / 0, print("RUN"')
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
