"""When checkpoints are written: at once, or in a thread from a copy while training goes on; one at a time.

In: the state after a step. Out: a published checkpoint, older ones pruned, the new one handed to the uploader
if there is one. With `asynchronous` the steps wait only while every tensor is copied into buffers on the CPU,
which the next save uses again (fresh memory would cost five times as much as the copy: pages must be made);
then a thread writes, flushes, hashes, renames and prunes. A save that comes while one is under way waits for it.
What goes wrong in the thread is raised in the loop, before the next step, in the same words.

100 MB of state on two cores: the copy takes 7 ms with two threads and 10 with one, writing, flushing and hashing
twice 185 when nothing else runs, and several times that beside the steps. What it costs is memory: the whole state
once more. It is off by default for that reason, and since a save every 200 steps is rarely noticed. With several
processes each copies and writes its share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from slm.core.artifact import Artifact, Spec
from slm.core.distributed import SOLO
from slm.train.checkpoint import Snapshot, TrainState, collect, prune, publish
from slm.train.config import CheckpointConfig
from slm.train.ledger import Ledger
from slm.train.stop import StopRequest

if TYPE_CHECKING:
    from slm.train.remote import Uploader


class Saver:
    """Publishes the states of one run. All processes call `save`, `wait` and `finish` alike."""

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        settings: CheckpointConfig,
        ledger: Ledger,
        stop: StopRequest,
        uploader: Uploader | None = None,
        newest: Artifact | None = None,
    ) -> None:
        self.step = newest.counts["step"] if newest else 0
        """The step whose state is saved, or is being saved."""
        self._folder, self._spec, self._settings = folder, spec, settings
        self._ledger, self._stop, self._uploader = ledger, stop, uploader
        self._newest = newest
        self._world = self._saving = SOLO
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._thread: threading.Thread | None = None
        self._under_way = False
        """Whether there is a thread that was not waited for."""
        self._error: BaseException | None = None
        self._seconds = self._stall_seconds = 0.0

    def save(self, state: TrainState, counts: Mapping[str, Any]) -> None:
        """Publish `state`, or begin to; a save under way is waited for first."""
        began = time.perf_counter()
        self.wait()
        self._world, self._saving, self.step = state.parallel.world, state.saving, state.step
        snapshot = collect(state)
        counts = {"step": state.step, "tokens": state.tokens, **counts}
        if not self._settings.asynchronous:
            self._newest = self._write(snapshot, counts)
            self._stall_seconds = self._seconds = time.perf_counter() - began
            self._book()
            return
        self._under_way = True
        copy = self._copied(snapshot)
        self._stall_seconds = time.perf_counter() - began
        self._thread = threading.Thread(target=self._run, args=(copy, counts), name="save", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Before each step: raise what went wrong in the save under way; never waits for it.

        Another process's failure is that one's to say; this one will lose its connection.
        """
        if self._error is not None and not isinstance(self._error, SystemExit):
            self.settle()
            self._raise()

    def wait(self) -> Artifact | None:
        """The newest checkpoint, once the save under way is done; raises what went wrong in it."""
        if self._under_way:
            self._under_way = False
            self._newest = self._world.together(self._joined)[0]
        return self._newest

    def settle(self) -> None:
        """Let the save under way come to its end, however it ends."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._book()

    def finish(self) -> None:
        """Wait for the save under way, and as long as the settings say for uploads; then prune what stayed for them."""
        self.wait()
        uploader, self._uploader = self._uploader, None
        if uploader is not None and self._world.leader:
            uploader.finish(lambda: self._stop.leaving or self._stop.signalled)
            self._ledger.behind(**uploader.figures())
            prune(self._folder, self._settings)

    def went_back_to(self, checkpoint: Artifact) -> None:
        """The run was rewound: newer checkpoints are gone."""
        self.step, self._newest = checkpoint.counts["step"], checkpoint

    def _write(self, snapshot: Snapshot, counts: dict[str, Any]) -> Artifact:
        artifact = publish(self._folder, self._spec, snapshot, counts, self._saving)
        self._saving.lead(lambda: self._follow_up(artifact))
        return artifact

    def _follow_up(self, published: Artifact) -> None:
        prune(self._folder, self._settings, published, self._uploader.busy if self._uploader else None)
        if self._uploader is not None:
            self._uploader.add(published.path)

    def _run(self, snapshot: Snapshot, counts: dict[str, Any]) -> None:
        began = time.perf_counter()
        try:
            self._newest = self._write(snapshot, counts)
        except BaseException as error:  # noqa: BLE001  (raised again by whoever looks)
            self._error = error
        self._seconds = self._stall_seconds + time.perf_counter() - began

    def _joined(self) -> Artifact | None:
        self.settle()
        self._raise()
        return self._newest

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _book(self) -> None:
        self._stop.saved(self._seconds * (2 if self._settings.asynchronous else 1))  # one may be under way
        self._ledger.behind(saves=1, save_seconds=self._seconds, stall_seconds=self._stall_seconds)

    def _copied(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot in buffers of its own, which are those of the save before where they fit."""
        copies: dict[str, dict[str, Tensor]] = {}
        on_gpu = False
        for file, tensors in snapshot.tensors.items():
            copies[file] = {}
            for name, tensor in tensors.items():
                buffer = self._buffers.get((file, name))
                if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                    buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                    self._buffers[file, name] = buffer
                copies[file][name] = buffer.copy_(tensor.detach(), non_blocking=True)
                on_gpu = on_gpu or tensor.is_cuda
        if on_gpu:
            torch.cuda.synchronize()
        return replace(snapshot, tensors=copies)
