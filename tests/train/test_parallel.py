"""Several real processes over gloo: the same losses, norms and weights as one, however the model is shared."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import slm.train
from slm import cli
from slm.core.artifact import open_artifact
from slm.core.distributed import SOLO, World
from slm.core.errors import UserError
from slm.model.load import load_tensors
from slm.objective.config import ObjectiveConfig
from slm.recipe import Recipe
from slm.train.checkpoint import step_folders
from slm.train.parallel import Parallel, choose
from tests.train.readings import figures, hashes

PROGRAM = Path(__file__).with_name("processes.py")
SHAPE = {
    "tokens": 4 * 384,
    "batch_tokens": 384,
    "micro_batch_rows": 1,
    "evaluate_every_steps": 2,
    "save_every_steps": 2,
}
"""12 packed rows a step: 6, 4 or 3 micro-batches a process, with other counts of targets in each."""
LONG = {**SHAPE, "tokens": 8 * 384}


def launch(
    processes: int, *jobs: tuple[Recipe, str], launcher: str = "torchrun", restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """`processes` real processes that train these recipes; the word says what is to happen (see processes.py)."""
    words = []
    for recipe, what in jobs:
        file = Path(recipe.runs_dir) / f"{recipe.run}.json"
        file.write_text(recipe.model_dump_json())
        words.append(f"{file}:{what}" if what else str(file))
    number = str(processes)
    if launcher == "torchrun":
        start = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            number,
            "--max-restarts",
            str(restarts),
        ]
    elif launcher == "slurm":
        torchrun = Path(__file__).parents[2] / "scripts" / "slurm" / "torchrun.py"
        start = [str(torchrun), "--standalone", "--nproc-per-node", number]
    elif launcher == "accelerate":
        start = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", number, "--num_machines", "1"]
        start += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    else:
        start = []
    return subprocess.run(
        [sys.executable, *start, str(PROGRAM), *words],
        capture_output=True, text=True, check=False, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def agree(recipe: Recipe, other: Recipe, tolerance: float = 2e-6, weight_tolerance: float = 1e-4) -> None:
    """The same rows of metrics and the same weights, to what float32 sums in another order differ by.

    1e-4 is 3 % of one step of AdamW.
    """
    mine, others = ([row for row in figures(each) if row["kind"] != "sample"] for each in (recipe, other))
    assert len(mine) == len(others) > 6
    for row, reference in zip(mine, others, strict=True):
        assert row.keys() == reference.keys()
        for name, value in row.items():
            expected = pytest.approx(reference[name], rel=tolerance) if isinstance(value, float) else reference[name]
            assert value == expected, (row, reference)
    weights, expected = (load_tensors(each.artifact("train").path) for each in (recipe, other))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=weight_tolerance, msg=name)


@pytest.fixture(scope="module")
def alone(make_recipe: Callable[..., Recipe]) -> Recipe:
    recipe = make_recipe("alone", **SHAPE)
    slm.train.run(recipe)
    return recipe


@pytest.fixture(scope="module")
def averaged(make_recipe: Callable[..., Recipe]) -> dict[int, Recipe]:
    """The same run with a moving average of the weights in 1, 2 and 3 processes, in shards where there are several."""
    names = {1: "averaged", 2: "averaged-2", 3: "averaged-3"}
    how = {1: {}, 2: {"parallel": "full_shard"}, 3: {"parallel": "full_shard"}}
    recipes = {size: make_recipe(name, **SHAPE, ema_decay=0.9, **how[size]) for size, name in names.items()}
    slm.train.run(recipes[1])
    return recipes


@pytest.fixture(scope="module")
def low_bits(pruned: Path) -> dict[str, object]:
    """Settings of a 2:4 sparse run that sees its weights in 4 bits."""
    quantization = {"bits": 4, "group_size": 32, "symmetric": True}
    return {**SHAPE, "initial": str(pruned), "sparsity": "2:4", "quantization": quantization, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def make_own(make_recipe: Callable[..., Recipe], alone: Recipe) -> Callable[..., Recipe]:
    """A run that learns from `alone`, in half of its steps of what it writes itself."""
    distill = {"teacher": str(alone.folder("train").parent), "on_policy": 0.5}
    objective = ObjectiveConfig.model_validate({"kind": "distill", "distill": distill})
    return lambda name, **how: make_recipe(name, **SHAPE, **how).model_copy(update={"objective": objective})


@pytest.fixture(scope="module")
def two(
    make_recipe: Callable[..., Recipe],
    make_own: Callable[..., Recipe],
    averaged: dict[int, Recipe],
    low_bits: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Recipe], str]:
    """Runs of two processes by name, and what was said; see processes.py for what happens in them."""
    sampled, muon = {**SHAPE, "sample_prompts": ["def "]}, {**SHAPE, "optimizer": {"kind": "muon"}}
    recipes = {
        "ddp": make_recipe("ddp-2", **sampled),
        "kept": make_recipe("kept-2", **sampled, parallel="shard_grad_op", activation_checkpointing="selective"),
        "unbroken": averaged[2],
        "broken": make_recipe(
            "broken-2", **SHAPE, ema_decay=0.9, parallel="full_shard", checkpoints={"asynchronous": True}
        ),
        "offloaded": averaged[2].model_copy(update={"run": "offloaded-2"}),
        "moved": make_recipe("moved-2", **SHAPE, checkpoints={"remote": f"file://{tmp_path_factory.mktemp('bucket')}"}),
        "stopped": make_recipe("stopped-2", **sampled),
        "unheard": make_recipe("unheard-2", **SHAPE),
        "unread": make_recipe("unread-2", **SHAPE, parallel="shard_grad_op", activation_checkpointing="selective"),
        "speechless": make_recipe("speechless-2", **sampled, ema_decay=0.9, parallel="full_shard"),
        "muon": make_recipe("muon-2", **muon, parallel="full_shard", activation_checkpointing="full"),
        "low-bits": make_recipe("low-bits-2", **low_bits, parallel="full_shard"),
        "own": make_own("own-2"),
        "own-shards": make_own("own-shards-2", parallel="full_shard"),
    }
    happens = {
        "broken": ["stop:1:1", "stop:0:2", ""],
        "offloaded": ["offload"],
        "moved": ["stop:1:3", "lost"],
        "stopped": ["stop-save:1:1", "stop-evaluation:1:6", ""],
        "own-shards": ["stop:1:1", ""],
        "unheard": ["unheard:1:3"],
        "unread": ["unread:1:2"],
        "speechless": ["speechless:0:1"],
    }
    done = launch(2, *((recipe, what) for name, recipe in recipes.items() for what in happens.get(name, [""])))
    assert done.returncode == 0, done.stdout + done.stderr
    return recipes, done.stdout


def test_two_processes_learn_what_one_learns_by_every_strategy(two, alone, averaged):
    recipes, said = two
    assert said.count("train: finished 4 steps") == 14  # rank 0 alone speaks
    assert "ddp over 2 processes (gloo)" in said
    assert "shard_grad_op over 2 processes (gloo)" in said
    agree(recipes["ddp"], alone)
    agree(recipes["kept"], alone)
    agree(recipes["unbroken"], averaged[1])
    for name in ("ddp", "kept"):
        assert [row["step"] for row in figures(recipes[name]) if row["kind"] == "sample"] == [2, 4]


def test_two_processes_write_and_learn_the_answers_that_one_does(two, make_own):
    alone = make_own("own-alone")
    slm.train.run(alone)
    assert {row["on_policy"] for row in figures(alone) if row["kind"] == "train"} == {0, 1}
    for name in ("own", "own-shards"):
        agree(two[0][name], alone)


def test_shards_are_rounded_and_kept_sparse_where_they_lie(two, make_recipe, low_bits, pruned):
    alone = make_recipe("low-bits-alone", **low_bits)
    slm.train.run(alone)
    agree(two[0]["low-bits"], alone, 1e-3, 1e-3)
    start, end = load_tensors(pruned), load_tensors(two[0]["low-bits"].artifact("train").path)
    for name in (name for name in start if name.startswith("blocks.") and start[name].ndim == 2):
        assert bool((end[name][start[name] == 0] == 0).all())


def test_the_same_processes_go_on_bit_for_bit(two):
    recipes, said = two
    assert said.count("SIGTERM received") == 1  # rank 1's own are not printed
    assert said.count("another process was told to stop") == 6
    assert re.findall(r"going on from \S+broken\S+ \(step (\d)", said) == ["1", "3"]
    assert re.findall(r"going on from \S+stopped\S+ \(step (\d)", said) == ["2", "4"]  # in the save, in an evaluation
    for name, reference in [("broken", "unbroken"), ("stopped", "ddp")]:
        assert figures(recipes[name]) == figures(recipes[reference])
        assert hashes(recipes[name]) == hashes(recipes[reference])


def test_two_processes_go_on_from_the_bucket_where_their_folder_is_lost_bit_for_bit(two):
    recipes, said = two
    assert re.findall(r"fetched step-0000000(\d) from file://", said) == ["3", "2"]  # and what a rewind would need
    assert "moved-2/train/step-00000003 (step 3 of 4)" in said
    assert hashes(recipes["moved"]) == hashes(recipes["ddp"])


def test_an_evaluation_that_fails_in_one_process_is_recorded_and_all_go_on(two):
    """In the forward of a replica; with shards while rows are read, and in the samples of the one that speaks."""
    recipes, said = two
    for name, step, reference in [("unheard", 2, "ddp"), ("unread", 2, "kept"), ("speechless", 2, "unbroken")]:
        failed = [row for row in figures(recipes[name]) if row["kind"] == "evaluate_failed"]
        assert [(row["step"], row["reason"]) for row in failed] == [(step, f"MemoryError: {name}, for want of room")]
        assert f"train: the evaluation at step 2 failed (MemoryError: {name}" in said
        evaluated = [row["step"] for row in figures(recipes[name]) if row["kind"] == "evaluate"]
        assert evaluated == ([2, 4] if name == "speechless" else [4])
        assert hashes(recipes[name]) == hashes(recipes[reference])


def test_a_forward_that_fails_in_one_process_while_shards_are_evaluated_ends_all(make_recipe):
    """The others wait for its weights, so it must not go on; what was saved before is kept."""
    recipe = make_recipe("unheard-shards", **SHAPE, parallel="full_shard")
    done = launch(2, (recipe, "unheard:1:2"))
    assert done.returncode == 1
    assert "MemoryError: unheard, for want of room" in done.stderr
    assert [path.name for path in step_folders(recipe.folder("train"))] == ["step-00000002"]


def test_an_optimizer_that_works_on_copies_of_the_shards_changes_nothing(two):
    recipes, _ = two
    assert hashes(recipes["offloaded"]) == hashes(recipes["unbroken"])


def test_muon_on_shards_learns_what_one_process_learns(two, make_recipe):
    reference = make_recipe("muon-alone", **SHAPE, optimizer={"kind": "muon"})
    slm.train.run(reference)
    agree(two[0]["muon"], reference, 1e-3, 5e-3)  # Muon multiplies in bfloat16


def test_three_and_four_processes_learn_what_one_learns(make_recipe, alone, averaged):
    ddp, kept = make_recipe("ddp-3", **SHAPE), make_recipe("kept-3", **SHAPE, parallel="shard_grad_op")
    done = launch(3, (ddp, ""), (kept, ""), (averaged[3], ""), *again(averaged, 3))
    assert done.returncode == 0, done.stderr
    assert "shard_grad_op over 3 processes (gloo)" in done.stdout
    agree(ddp, alone)
    agree(kept, alone)
    agree(averaged[3], averaged[1])
    hybrid = make_recipe("hybrid-4", **SHAPE, parallel="hybrid_shard", shard_processes=2)
    done = launch(4, (hybrid, ""))
    assert done.returncode == 0, done.stderr
    assert "hybrid_shard over 4 processes (gloo)" in done.stdout
    agree(hybrid, alone)


def test_what_any_number_of_processes_saved_any_other_reads_and_saves_bit_for_bit(averaged):
    """Weights, their average and the optimizer, of every pair of 1, 2 and 3 processes."""
    assert launch(2, *again(averaged, 2)).returncode == 0
    assert launch(1, *again(averaged, 1), launcher="").returncode == 0
    for writer, recipe in averaged.items():
        written = recipe.artifact("train").path
        for reader in averaged:
            copied = recipe.folder("train").parent / f"again-{reader}" / written.name
            shares = [0] * reader
            for stem in ("model", "weights", "optimizer"):
                files = sorted(copied.glob(f"{stem}*.safetensors"))
                shares = [share + file.stat().st_size for share, file in zip(shares, files, strict=True)]
                tensors, expected = load_tensors(copied, stem=stem), load_tensors(written, stem=stem)
                assert tensors.keys() == expected.keys()
                assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors.items()), (writer, reader)
            assert max(shares) < 1.1 * sum(shares) / reader


def test_the_model_that_two_processes_saved_becomes_one_file_on_demand(two, tmp_path):
    saved = two[0]["unbroken"].artifact("train")
    assert len(list(saved.path.glob("model-*.safetensors"))) == 2
    cli.dispatch(["consolidate", str(saved.path), str(tmp_path / "one")])
    one = open_artifact(tmp_path / "one", "model", verify="full")
    found, expected = load_file(one.file("model.safetensors")), load_tensors(saved.path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def again(averaged: dict[int, Recipe], size: int) -> list[tuple[Recipe, str]]:
    strategy = averaged[size].train.parallel
    return [
        (recipe.model_copy(update={"train": recipe.train.model_copy(update={"parallel": strategy})}), "again")
        for recipe in averaged.values()
    ]


def test_a_poisoned_step_of_one_process_is_skipped_and_rewound_by_all(make_recipe):
    guard = {"guard": {"max_skips": 2}}
    reference = make_recipe("poisoned-alone", **LONG, **guard)
    ddp, sharded = (
        make_recipe("poisoned-ddp", **LONG, **guard),
        make_recipe("poisoned", **LONG, parallel="full_shard", **guard),
    )
    assert launch(1, (reference, "poison:0:4"), launcher="").returncode == 0
    done = launch(2, (ddp, "poison:1:4"), (sharded, "poison:1:4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rewound to step 2, past row 59") == 2
    for recipe in (ddp, sharded):
        agree(recipe, reference)
        assert [row["kind"] for row in figures(recipe) if row["kind"] in ("skip", "rewind")] == [
            "skip",
            "skip",
            "rewind",
        ]
        report = (recipe.folder("train") / "autopsy-00000005-1.json").read_text()
        assert report.count('"texts"') == 24


def test_a_stop_that_one_process_hears_ends_all_with_85_and_two_one_two_goes_on(make_recipe, alone):
    recipe, single = make_recipe("stopped", **SHAPE, parallel="full_shard"), make_recipe("stopped", **SHAPE)
    stopped = launch(2, (recipe, "stop:1:1"), launcher="slurm")
    assert stopped.stderr.count("stopped (the time ends, or another process was told to stop)") == 1, stopped.stderr
    assert stopped.returncode == 85
    assert [path.name for path in step_folders(recipe.folder("train"))] == ["step-00000001"]
    done = launch(1, (single, "stop:0:1"), launcher="")
    assert done.returncode == 85, done.stderr
    assert "was at 2 processes and goes on with 1: each step takes the same tokens" in done.stdout
    again = launch(2, (recipe, ""))
    assert again.returncode == 0, again.stderr
    assert "was at 1 processes and goes on with 2" in again.stdout
    agree(recipe, alone)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("fail", "error: the moon is full; wait"),
        ("die", "error: another of the 2 processes ended without a word"),
        ("full", "error: the disk is full ("),
    ],
)
def test_a_failure_of_one_process_ends_all_with_one_sentence(make_recipe, how, sentence):
    recipe = make_recipe(f"failing-{how}", **SHAPE)
    done = launch(2, (recipe, f"{how}:1:2"))
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert sentence in done.stderr
    assert not list(recipe.folder("train").glob("step-*"))


def test_torchrun_starts_all_again_after_a_killed_one_which_end_with_the_unbroken_weights(make_recipe, two):
    recipe = make_recipe("elastic-2", **SHAPE)
    done = launch(2, (recipe, "die:1:3"), restarts=1)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr  # torchrun may have ended the other before it noticed and said so
    assert done.stderr.count("error: ") <= 1
    assert "step-00000002 (step 2 of 4)" in done.stdout
    assert hashes(recipe) == hashes(two[0]["ddp"])


def test_two_torchruns_that_meet_end_with_the_weights_of_one_with_two_processes(make_recipe, two):
    """Two agents, as on two machines, with a process each; they find each other at a port of the first."""
    recipe = make_recipe("two-agents", **SHAPE)
    file = Path(recipe.runs_dir) / "two-agents.json"
    file.write_text(recipe.model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", place]
    words += ["--rdzv-id", "two", "--local-addr", "127.0.0.1", str(PROGRAM), str(file)]
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        said = [agent.communicate(timeout=90)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum("ddp over 2 processes (gloo)" in words for words in said) == 1
    assert hashes(recipe) == hashes(two[0]["ddp"])


def srun(recipe: Recipe, *tasks: int) -> list[tuple[int, str]]:
    """(exit status, what was said) of each process of a step with so many tasks on each node, as srun starts them."""
    file = Path(recipe.runs_dir) / f"{recipe.run}.json"
    file.write_text(recipe.model_dump_json())
    counts = ",".join(map(str, tasks))
    step = {"SLURM_STEP_NUM_TASKS": str(sum(tasks)), "SLURM_STEP_TASKS_PER_NODE": counts}
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": str(sum(tasks)), "SLURM_STEP_NODELIST": "localhost"}
    who = [(node, local) for node, here in enumerate(tasks) for local in range(here)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={
                **os.environ, **job, **step, "OMP_NUM_THREADS": "1", "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node),
            },
        )
        for rank, (node, local) in enumerate(who)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [(process.returncode, words) for process, words in zip(processes, said, strict=True)]


def test_started_by_srun(make_recipe, alone):
    """Two processes as srun starts them: by its variables alone they find out who they are and where to meet."""
    recipe = make_recipe("started-by-srun", **SHAPE)
    (first, said), (second, silence) = srun(recipe, 2)
    assert (first, second) == (0, 0), said + silence
    assert "ddp over 2 processes (gloo)" in said
    assert silence == ""
    agree(recipe, alone)


def test_machines_with_different_numbers_of_processes_have_no_default_of_hybrid_shard(make_recipe):
    """All of them say no, also the two of the second machine, for whom it would be 2."""
    found = srun(make_recipe("uneven", **SHAPE, parallel="hybrid_shard"), 1, 2)
    assert [status for status, _ in found] == [1, 1, 1], found
    assert "machines have different numbers of processes" in "".join(said for _, said in found)
    assert "".join(said for _, said in found).count("error: ") == 1


def test_started_by_accelerate(make_recipe, alone):
    recipe = make_recipe("accelerated", **SHAPE)
    done = launch(2, (recipe, ""), launcher="accelerate")
    assert done.returncode == 0, done.stderr
    agree(recipe, alone)


@pytest.mark.parametrize(
    ("settings", "world", "message"),
    [
        ({"parallel": "ddp"}, SOLO, r"train\.parallel is ddp, but there is one process; set train\.parallel=auto"),
        ({"parallel": "single"}, World(0, 2), r"train\.parallel is single, but 2 processes were started"),
        (
            {"parallel": "hybrid_shard", "shard_processes": 3},
            World(0, 4),
            r"hybrid_shard with 3 processes to a copy .* 4 processes must make several",
        ),
        ({"parallel": "hybrid_shard"}, World(0, 4, 0, 4), r"hybrid_shard with 4 processes .*parallel=full_shard"),
        (
            {"parallel": "hybrid_shard"},
            World(0, 6, 0, 2, even=False),
            r"machines have different numbers of processes, .* default of train\.shard_processes; set it",
        ),
    ],
)
def test_a_strategy_that_does_not_fit_the_processes_is_refused(make_recipe, settings, world, message):
    with pytest.raises(UserError, match=message):
        choose(make_recipe("refused", **settings).train, world)


def test_the_strategy_that_is_taken(make_recipe):
    config = make_recipe("taken").train
    assert choose(config, SOLO) == Parallel()
    assert choose(config, World(1, 2)).strategy == "ddp"
    hybrid = config.model_copy(update={"parallel": "hybrid_shard"})
    assert choose(hybrid, World(1, 8, 1, 4)).shard_processes == 4
    chosen = hybrid.model_copy(update={"shard_processes": 2})
    assert choose(chosen, World(1, 6, 1, 4, even=False)).shard_processes == 2
