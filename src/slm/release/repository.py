"""What Git says of the source: the commit, what is not committed, the tag.

In: a folder. Out: a `State`; a folder in no repository has none of the three. Files that Git ignores do not count as
uncommitted, files that it does not know do: a recipe that nobody else has would make the release irreproducible.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class State:
    """The repository at one moment."""

    folder: Path
    commit: str
    """Empty where there is no repository, or no commit in it."""
    changed: tuple[str, ...]
    """Files that are changed, or that Git does not know."""
    tags: tuple[str, ...]
    """Annotated or plain tags of the very commit."""

    @property
    def record(self) -> dict[str, object]:
        """Plain JSON values."""
        return {"commit": self.commit, "tag": self.tags[0] if self.tags else "", "clean": not self.changed}


def state(folder: str) -> State:
    """The state of the repository that holds `folder`; of this program's own source where it is empty."""
    place = Path(folder) if folder else Path(__file__).parent
    commit = _git(place, "rev-parse", "HEAD")
    if not commit:
        return State(place, "", (), ())
    changed = _git(place, "status", "--porcelain", "--untracked-files=normal", cut=False)
    tags = _git(place, "tag", "--points-at", "HEAD")
    return State(place, commit, tuple(line[3:] for line in changed.splitlines()), tuple(tags.splitlines()))


def _git(folder: Path, *arguments: str, cut: bool = True) -> str:
    """What Git prints; nothing where it fails or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip() if cut else done.stdout
