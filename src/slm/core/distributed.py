"""The processes that train one run together: who we are, how they agree, how they end.

In: the variables that `torchrun`, `accelerate launch` or `srun` set. Out: `session`, in which the processes
are connected (gloo on a CPU, NCCL beside it on GPUs), and a `World` for the few things that the loop asks:
sums, a common answer, work that one process does for all. They share one file system. Without a launcher
all of it is one process and costs nothing; a sum over two processes takes about 0.1 ms.

How they end: what all agreed on (finished, asked to stop) ends each with the same status; an error is said by
the first process that has one, and the others leave without a word; a process that is killed closes its
connections, which the others notice in their next exchange and say in one sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

from slm.core.console import speak
from slm.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, UserError, is_disk_full

Result = TypeVar("Result")

THREADS_END_SECONDS = 0.2
"""gloo's threads end a moment after their group; a process that leaves before them is aborted."""
SAYING_SECONDS = 0.5
"""What a process that failed gets to say why, before the others leave."""
PATIENCE = timedelta(minutes=30)
"""What an exchange may take, and the others' start."""
LOST_PEER = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "onnection refused", "ead error")
"""How gloo says that another process has gone, in parts that hold whatever the case of the first letter."""
OTHER_LAUNCHERS = {"OMPI_COMM_WORLD_SIZE": "mpirun", "PMI_SIZE": "mpiexec"}


@dataclass(frozen=True, slots=True)
class World:
    """The processes of this run and which of them this is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of the same machine."""
    local_size: int = 1
    even: bool = True
    """Whether every machine has as many processes; known once they are connected."""
    device: str = "cpu"
    """Where tensors are exchanged: cpu (gloo) or cuda (NCCL)."""
    group: Any = None
    """The process group of what is asked here; None is the one of the whole session."""

    @property
    def leader(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value added up over all processes; equal everywhere, bit for bit."""
        if self.size == 1:
            return [float(value) for value in values]
        import torch
        import torch.distributed as dist

        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return cast("list[float]", sums.tolist())

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process; all must ask."""
        return self.sum(flag)[0] > 0

    def barrier(self) -> None:
        """Wait for all."""
        self.any(False)

    def lead(self, work: Callable[[], Result]) -> Result:
        """Let one process do `work` and tell the others what came of it; where it fails they leave with its status."""
        if self.size == 1:
            return work()
        import torch
        import torch.distributed as dist

        box: list[Result | None] = [None]
        status = EXIT_FAILED
        try:
            if self.leader:
                box[0] = work()
            status = 0
        except KeyboardInterrupt as error:
            status = int(getattr(error, "exit_status", EXIT_INTERRUPTED))
            raise
        finally:
            status = int(self.sum(status)[0])
        if status:
            raise SystemExit(status)
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"), group=self.group)
        return cast("Result", box[0])

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """Let each process do its part; all learn what came of every part, by rank, and leave where one failed."""
        if self.size == 1:
            return [work()]
        import torch.distributed as dist

        found: list[tuple[Result | None, bool]] = [(None, False)] * self.size
        part: tuple[Result | None, bool] = (None, False)
        try:
            part = (work(), True)
        finally:
            dist.all_gather_object(found, part, group=self.group)
        if not all(done for _, done in found):
            raise SystemExit(EXIT_FAILED)
        return [cast("Result", result) for result, _ in found]

    def apart(self) -> World:
        """The same processes by connections of their own, so that a thread may ask while this world is asked too."""
        if self.size == 1:
            return self
        import torch.distributed as dist

        return replace(self, group=dist.new_group(backend="gloo"))


SOLO = World()


def launched(environment: Mapping[str, str] = os.environ) -> World:
    """Who this process is, by the variables of whatever started it; `SOLO` where nothing did."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        local_rank = _number(environment, "LOCAL_RANK", rank)
        local_size = _number(environment, "LOCAL_WORLD_SIZE", size)
    elif "SLURM_STEP_NUM_TASKS" in environment:  # set by srun for its tasks, and not for the batch script itself
        rank, size = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_STEP_NUM_TASKS")
        local_rank = _number(environment, "SLURM_LOCALID")
        local_size = _tasks_of_node(environment, size)
    else:
        for name, launcher in OTHER_LAUNCHERS.items():
            if environment.get(name, "1") != "1":
                raise UserError(
                    f"{name} is {environment[name]}, so {launcher} started this, whose processes would all train "
                    "the same run; start it with torchrun, accelerate launch or srun"
                )
        return SOLO
    if not 0 <= rank < size or not 0 <= local_rank < local_size:
        raise UserError(
            f"this process is rank {rank} of {size} and {local_rank} of {local_size} on its machine by its environment "
            "(RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE), but ranks count from 0; correct how it is started"
        )
    return World(rank, size, local_rank, local_size)


def rendezvous(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """(host, port) where the processes meet: as the launcher says, or under srun the first host of the step."""
    host, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    if "SLURM_STEP_NUM_TASKS" in environment and "RANK" not in environment:
        job = _number(environment, "SLURM_JOB_ID", 0) + _number(environment, "SLURM_STEP_ID", 0)
        host = host or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
        port = port or str(20_000 + job % 10_000)
    if not host or not port:
        raise UserError(
            f"MASTER_ADDR ({host}) and MASTER_PORT ({port}) must both be set beside RANK and WORLD_SIZE; "
            "start the run with torchrun, accelerate launch or srun, which set them"
        )
    return host, int(port)


def tasks_of_nodes(counts: str) -> list[int]:
    """SLURM's count of tasks for each node of a step: `2(x3),1` is 2, 2, 2 and 1."""
    if not re.fullmatch(r"\d+(\(x\d+\))?(,\d+(\(x\d+\))?)*", counts):
        raise UserError(
            f"SLURM_STEP_TASKS_PER_NODE is {counts!r}, but it must list the tasks of each node, as in 2(x3),1; "
            "start the run with srun, which sets it"
        )
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(tasks) for tasks, nodes in groups for _ in range(int(nodes or 1))]


def _tasks_of_node(environment: Mapping[str, str], size: int) -> int:
    """How many of a step's `size` tasks are on this node; all where the step does not say."""
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if not counts:
        return size
    tasks = tasks_of_nodes(counts)
    if len(set(tasks)) == 1:
        return tasks[0]
    node = _number(environment, "SLURM_NODEID")
    if node >= len(tasks):
        raise UserError(
            f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE ({counts}) lists {len(tasks)} nodes, counted "
            "from 0; start the run with srun, which sets both"
        )
    return tasks[node]


def first_host(nodes: str) -> str:
    """The first of SLURM's list of hosts: `node[03-05,9],login` is `node03`."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else "localhost"


@contextlib.contextmanager
def session(device: str = "auto") -> Iterator[World]:
    """The `World` of this run while the block lasts; `device` is the recipe's wish: auto, cpu or cuda."""
    world = launched()
    if world.size == 1:
        yield SOLO
        return

    speak(world.leader)
    world = _connect(world, device)
    try:
        yield world
        world.barrier()
        _disconnect()
    except KeyboardInterrupt as error:  # agreed on by all
        _ignore_signals()
        atexit.register(_ignore_signals)  # for handlers are put back on the way out
        _disconnect()
        if world.leader:
            raise
        raise SystemExit(getattr(error, "exit_status", EXIT_INTERRUPTED)) from None
    except SystemExit:  # another process has failed and is saying so; the launcher ends all when one has left
        time.sleep(SAYING_SECONDS)
        raise
    except UserError as error:
        if _first_to_fail():
            raise
        time.sleep(SAYING_SECONDS)
        raise SystemExit(error.exit_status) from None
    except Exception as error:
        first = _first_to_fail()
        is_lost_peer = any(sign in str(error) for sign in LOST_PEER)
        if not (is_lost_peer or is_disk_full(error)):
            raise  # a defect of ours keeps its trace
        if not first:
            time.sleep(SAYING_SECONDS)
            raise SystemExit(EXIT_FAILED) from None
        if not is_lost_peer:
            raise
        raise UserError(
            f"another of the {world.size} processes ended without a word (rank {world.rank} lost its connection); "
            "see its machine's log for why, and run the same command to go on from the last checkpoint"
        ) from error
    finally:
        speak(True)


def _ignore_signals() -> None:
    """A launcher signals the others when the first has left; that must not change the status they leave with."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _disconnect() -> None:
    import torch.distributed as dist

    gc.collect()  # models in shards are circles, and hold process groups
    dist.destroy_process_group()
    time.sleep(THREADS_END_SECONDS)


def _connect(world: World, device: str) -> World:
    import torch
    import torch.distributed as dist

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu and world.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"process {world.local_rank} of this machine has no GPU of its own (torch sees "
            f"{torch.cuda.device_count()}); start as many processes as there are GPUs, or set train.device=cpu"
        )
    if on_gpu:
        torch.cuda.set_device(world.local_rank)
    host, port = rendezvous()
    # Where torchrun lends its store, it keeps it over restarts, with the addresses of processes that are gone.
    with_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] if with_agent else "0"
    master = world.leader and not with_agent
    store = dist.TCPStore(host, port, world.size, master, PATIENCE)  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(f"slm/{attempt}", store),  # type: ignore[attr-defined]
        rank=world.rank,
        world_size=world.size,
        timeout=PATIENCE,
    )
    total, squares = world.sum(world.local_size, world.local_size**2)
    even = total**2 == world.size * squares  # no spread, and the same answer everywhere
    return replace(world, even=even, device="cuda" if on_gpu else "cpu")


def _first_to_fail() -> bool:
    """True in one process alone: the one that says what happened. It also says so where nobody can be asked."""
    from torch.distributed import distributed_c10d

    try:
        return bool(distributed_c10d._get_default_store().add("slm/failed", 1) == 1)
    except (RuntimeError, ValueError):  # whoever kept the store is gone
        return True


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name, "" if default is None else str(default))
    if not value.isdecimal():
        raise UserError(
            f"{name} is {value!r}, but each of several processes needs a whole number there; start the run with "
            "torchrun, accelerate launch or srun, or unset RANK and WORLD_SIZE to run in one process"
        )
    return int(value)
