"""Errors that a person can act on.

A `UserError` carries one sentence: the key or file, the value found, the rule, and the way out. The
command line prints it without a stack trace and exits with its status; anything else is a defect of
ours and keeps its trace.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REQUEUE = 85
"""Stopped by a scheduler or by the clock, not finished and not broken: start the same command again."""
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can mend; `str(error)` is the whole message."""

    exit_status = EXIT_FAILED


class Stopped(KeyboardInterrupt):
    """Asked to stop by something that will start the command again; `str(error)` names it.

    As `KeyboardInterrupt` is, it is no `Exception`, so that nothing that goes on after a failure holds it up.
    """

    exit_status = EXIT_REQUEUE


class ProblemsError(UserError):
    """Every problem found in a recipe or on the command line, printed together."""

    exit_status = EXIT_USAGE

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DamagedError(UserError):
    """A file whose content is not what its manifest promises."""


def is_disk_full(error: BaseException) -> bool:
    """True if `error`, or what caused it, is the operating system saying that no space is left.

    Libraries wrap ENOSPC in types of their own (safetensors, pyarrow), so the message counts as well.
    """
    cause: BaseException | None = error
    visited: set[int] = set()
    while cause is not None and id(cause) not in visited:  # `raise error from error` makes a circle
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(cause):
            return True
        visited.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False
