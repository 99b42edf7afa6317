"""Checkpoints on object storage: uploaded behind the steps, and where a run goes on from on a fresh machine.

In: published checkpoints and `train.checkpoints.remote`. Out: the same below `<remote>/<run>/train`, with the
metrics beside them. One thread uploads, in order; training never waits for it. If the storage fails after all
attempts, that is said and counted, the run goes on, and the upload is tried again with each later checkpoint and
every `PAUSE_SECONDS`. What the disk no longer keeps by then is overtaken by newer ones, so an outage costs no space.

A run that begins looks at both places and takes the newest checkpoint that verifies, and beside it the newest that
it may have to rewind to; a storage that does not answer then is refused, since what it holds may be newer. What a
rewind has forgotten here may lie there for a while. Newest is therefore what the run came to last (`age`), whatever
its step, and with each upload what the run did not come through (`leads_to`) is deleted there too. That needs the
counts of every checkpoint there: one small request for each at the start. Rank 0 does all of this for all processes.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import MANIFEST, Artifact, Spec, open_artifact
from slm.core.console import duration, say
from slm.core.errors import DamagedError, UserError
from slm.core.store import Store
from slm.train.checkpoint import (
    age,
    kept,
    leads_to,
    make_newest,
    newest_sound,
    prune,
    refuse_other,
    remove_leftovers,
    rewind_target,
    step_folders,
)
from slm.train.config import CheckpointConfig

if TYPE_CHECKING:
    from slm.recipe import Recipe

PAUSE_SECONDS, LAST_PAUSE_SECONDS = 60.0, 1.0
"""Between two tries of an upload that failed after all its attempts, if no newer checkpoint comes first; at the end."""
HURRIED_SECONDS = 15.0
"""For uploads when asked to stop, of the 30 that SLURM and containers grant; the same command uploads what is left."""
LOOK_SECONDS, TELL_SECONDS = 0.1, 5.0
"""How often a run that waits for uploads looks, and how often it says so."""


class Uploader:
    """Carries checkpoints from a run's folder to a store, in a thread, in order."""

    def __init__(self, store: Store, folder: Path, settings: CheckpointConfig) -> None:
        self.store = store
        self.busy: Path | None = None
        """What is being uploaded now."""
        self._folder, self._settings = folder, settings
        self._waiting: deque[Path] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._uploads = self._failed = self._overtaken = 0
        self._seconds, self._finishing = 0.0, False
        self._manifests: dict[str, dict[str, Any]] = {}
        """Of the checkpoints there, as far as they were read."""
        self._trouble = ""
        """Why the last upload failed; empty while all is well."""

    def add(self, path: Path) -> None:
        """Upload a checkpoint after those that wait already."""
        with self._changed:
            if path not in self._waiting or path == self.busy:  # a rewound run may have written it anew meanwhile
                self._waiting.append(path)
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
            self._thread.start()

    def add_missing(self) -> None:
        """Upload what is here and not the same there, as after an outage, a kill or a rewind."""
        there = self._there()
        for path in reversed(step_folders(self._folder)):
            try:
                fingerprint = open_artifact(path, "train").fingerprint
            except DamagedError:
                continue
            if path.name not in there or there[path.name]["fingerprint"] != fingerprint:
                self.add(path)

    def fetch_newer(self, spec: Spec, here: Artifact | None, *, redo: bool) -> Artifact | None:
        """The newest checkpoint there that verifies and is newer than the one here, fetched; else the one here.

        With it comes the newest that it may be rewound to, where that is there and not here.
        """
        there = self._there()
        for name in [name for name, manifest in there.items() if manifest["key"] != spec.key]:
            if not redo:
                refuse_other(self.store.address, there[name], spec)
            self.store.remove(name)
            del there[name]
        for name in _newest_first(there):
            if here is not None and age(there[name]["counts"]) <= age(here.counts):
                break
            self._folder.mkdir(parents=True, exist_ok=True)
            self.store.download_beside(self._folder)  # first, so that no checkpoint here lacks its rows
            if fetched := self._fetch(name):
                make_newest(self._folder, fetched)
                here = fetched
                break
        if here is not None and not here.counts.get("finished"):
            self._fetch_rewind_target(here, there)
        return here

    def _fetch_rewind_target(self, newest: Artifact, there: Mapping[str, Mapping[str, Any]]) -> None:
        found = rewind_target(self._folder)
        for name in _newest_first(there):
            counts = there[name]["counts"]
            if found is not None and age(counts) <= age(found.counts):
                return
            if counts.get("rewind_target") and leads_to(counts, newest.counts) and self._fetch(name):
                return

    def _fetch(self, name: str) -> Artifact | None:
        """A checkpoint there, placed here; None if it is damaged, and then it is no checkpoint there any more."""
        began = time.perf_counter()
        try:
            fetched = self.store.download(name, self._folder / name)
        except DamagedError as error:
            self.store.set_aside(name)
            say(f"train: {error}; left aside there, trying the checkpoint before it")
            return None
        say(f"train: fetched {name} from {self.store.address} in {duration(time.perf_counter() - began)}")
        return fetched

    def finish(self, hurried: Callable[[], bool] = lambda: False) -> None:
        """Wait until all is uploaded, as long as the settings say, or a few seconds if `hurried`; say what is left."""
        began = told = time.monotonic()
        seconds = self._settings.remote_wait_seconds
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        while self.left and time.monotonic() - began < seconds:
            if hurried():
                seconds = min(seconds, HURRIED_SECONDS)
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                say(
                    f"train: waiting for {self.left} uploads to {self.store.address}, "
                    f"{duration(began + seconds - told)} at most" + (f" ({self._trouble})" if self._trouble else "")
                )
            time.sleep(LOOK_SECONDS)
        if not self.left:
            self._put_beside()
        self.store.abandoned.set()
        if self.left:
            reason = self._trouble or "the time for it is over"
            say(
                f"train: {self.left} checkpoints are not in {self.store.address} ({reason}); "
                f"they are in {self._folder}, and the same command uploads them"
            )

    @property
    def left(self) -> int:
        """Checkpoints that wait or are under way."""
        return len(self._waiting)

    def figures(self) -> dict[str, float]:
        """What was done, for the ledger."""
        return {
            "uploads": self._uploads,
            "upload_seconds": self._seconds,
            "upload_retries": self.store.retries,
            "uploads_failed": self._failed,
            "uploads_overtaken": self._overtaken,
            "uploads_missing": self.left,
        }

    def _steps(self) -> list[str]:
        return [name for name in self.store.published() if re.fullmatch(r"step-\d{8,}", name)]

    def _there(self) -> dict[str, dict[str, Any]]:
        """The manifests of the checkpoints there, by name; each is read once, for nobody else writes there."""
        for name in (found := self._steps()):
            if name not in self._manifests:
                try:
                    self._manifests[name] = self.store.manifest(name)
                except DamagedError as error:
                    self.store.set_aside(name)
                    say(f"train: {error}; left aside there")
        return {name: self._manifests[name] for name in found if name in self._manifests}

    def _kept(self) -> set[str]:
        """Which of the checkpoints there stay, by the settings and for a rewind."""
        there = self._there()
        counts = {name: there[name]["counts"] for name in _newest_first(there)}
        newest = next(iter(counts.values()))
        line = [name for name, found in counts.items() if leads_to(found, newest)]
        targets = [name for name in line if counts[name].get("rewind_target") and not newest.get("finished")]
        return kept(line, self._settings) | set(targets[:1])

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                self.busy = self._waiting[0]
            began = time.perf_counter()
            done = self._upload(self.busy)
            self._seconds += time.perf_counter() - began
            with self._changed:
                self.busy = None
                if done:
                    self._waiting.popleft()
                elif not self.store.abandoned.is_set():
                    self._changed.wait(LAST_PAUSE_SECONDS if self._finishing else PAUSE_SECONDS)
                else:
                    return

    def _upload(self, path: Path) -> bool:
        """Whether nothing is left to do for the checkpoint in a folder."""
        try:
            if (path / MANIFEST).exists():
                self._manifests.pop(path.name, None)
                self.store.upload(path, self._beside())
                self._uploads += 1
                here = {folder.name for folder in step_folders(self._folder)}
                self.store.prune(self._kept() | here)
            else:
                self._overtaken += 1
        except Exception as error:  # noqa: BLE001  (the run goes on without the storage, whatever is wrong with it)
            if not (path / MANIFEST).exists():  # pruned, or rewound past, during the upload
                self._overtaken += 1
                return True
            self._failed += 1
            if not self._trouble:
                say(f"train: {path.name} was not uploaded ({error}); training goes on, and it is tried again")
            self._trouble = str(error)
            return False
        if self._trouble:
            say(f"train: {self.store.address} answers again; {path.name} is uploaded")
            self._trouble = ""
        return True

    def _beside(self) -> list[Path]:
        return sorted([*self._folder.glob("*.jsonl"), *self._folder.glob("autopsy-*.json")])

    def _put_beside(self) -> None:
        """The metrics once more: the last rows came after the last checkpoint."""
        try:
            self.store.put_beside(self._beside())
        except UserError as error:
            say(f"train: the last rows of the metrics were not uploaded ({error})")


def uploader_of(recipe: Recipe) -> Uploader | None:
    """The uploader of a run whose recipe names an address; an address that cannot be opened is refused."""
    settings = recipe.train.checkpoints
    if not settings.remote:
        return None
    store = Store(f"{settings.remote.rstrip('/')}/{recipe.run}/train")
    return Uploader(store, recipe.folder("train"), settings)


def newest_anywhere(folder: Path, spec: Spec, uploader: Uploader | None, *, redo: bool) -> Artifact | None:
    """The newest checkpoint that verifies, of those in `folder` and those in the store; None to start from nothing."""
    here = newest_sound(folder, spec, redo=redo)
    if uploader is None:
        return here
    uploader.store.check()
    found = uploader.fetch_newer(spec, here, redo=redo)
    uploader.add_missing()
    return found


def upload_missing(recipe: Recipe) -> None:
    """Upload what a run that is finished has not uploaded yet, then delete what a killed deletion left."""
    uploader = uploader_of(recipe)
    if uploader is not None:
        uploader.add_missing()
        uploader.finish()
        remove_leftovers(recipe.folder("train"))
        prune(recipe.folder("train"), recipe.train.checkpoints)


def _newest_first(manifests: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted(manifests, key=lambda name: age(manifests[name]["counts"]), reverse=True)
