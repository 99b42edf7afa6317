"""Who a process is, from the variables of whatever started it; and what one process says for all."""

from __future__ import annotations

import pytest

from slm.core.distributed import SOLO, World, first_host, launched, rendezvous, session, tasks_of_nodes
from slm.core.errors import UserError

SRUN = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "node[03-04]", "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "1",
}  # fmt: skip


def test_nothing_started_this_process_so_it_is_alone():
    assert launched({}) is SOLO
    assert launched({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is SOLO  # a batch script, which srun did not start
    assert SOLO.leader


def test_torchrun_and_accelerate_say_who_is_who():
    environment = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    assert launched(environment) == World(5, 8, 1, 4)
    assert launched({**environment, **SRUN}) == World(5, 8, 1, 4)  # torchrun inside a job
    assert rendezvous({**environment, **SRUN, "MASTER_ADDR": "a", "MASTER_PORT": "29500"}) == ("a", 29500)


def test_srun_says_who_is_who_and_where_to_meet():
    assert launched(SRUN) == World(3, 4, 1, 2)
    assert not launched(SRUN).leader
    assert rendezvous(SRUN) == ("node03", 20_000 + 3_457)


@pytest.mark.parametrize(
    ("counts", "tasks"), [("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("1,2", [1, 2]), ("8(x2),4(x2),1", [8, 8, 4, 4, 1])]
)
def test_the_tasks_of_each_node_are_read_from_slurm_s_list(counts, tasks):
    assert tasks_of_nodes(counts) == tasks
    size = sum(tasks)
    found = []
    for node, here in enumerate(tasks):
        for local in range(here):
            variables = {"SLURM_STEP_NUM_TASKS": str(size), "SLURM_STEP_TASKS_PER_NODE": counts}
            who = {"SLURM_PROCID": str(len(found)), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
            found.append(launched({**variables, **who}))
    assert [world.rank for world in found] == list(range(size))
    assert [world.local_size for world in found] == [here for here in tasks for _ in range(here)]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node[03-05,9],login", "node03"), ("a,b", "a"), ("gpu7", "gpu7"), ("rack1-n[2]", "rack1-n2"), ("c[1,3]x", "c1x")],
)
def test_the_first_of_a_list_of_hosts(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "0"}, r"WORLD_SIZE is '', but each of several processes needs a whole number there; start"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"this process is rank 2 of 2 .* ranks count from 0"),
        (
            {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "2,(x2)"},
            r"SLURM_STEP_TASKS_PER_NODE is '2,\(x2\)', but it must list the tasks of each node, as in 2\(x3\),1; start",
        ),
        (
            {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3,1"},
            r"SLURM_NODEID is '', but each of several processes needs a whole number there",
        ),
        (
            {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "2"},
            r"SLURM_NODEID is 2, but SLURM_STEP_TASKS_PER_NODE \(3,1\) lists 2 nodes, counted from 0",
        ),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, r"OMPI_COMM_WORLD_SIZE is 4, so mpirun started this, .*start it with torchrun"),
    ],
)
def test_a_start_that_cannot_be_understood_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        launched(environment)


def test_a_place_to_meet_must_be_known():
    with pytest.raises(UserError, match=r"MASTER_ADDR \(None\) and MASTER_PORT \(None\) must both be set"):
        rendezvous({"RANK": "0", "WORLD_SIZE": "2"})


def test_one_process_needs_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    with session() as world:
        assert world is SOLO
    assert SOLO.sum(1, 2.5) == [1.0, 2.5]
    assert SOLO.any(True)
    assert not SOLO.any(False)
    assert SOLO.lead(lambda: "done") == "done"
