"""Errors that a person can act on."""

from __future__ import annotations

import errno

import pytest

from slm.core.errors import EXIT_FAILED, EXIT_USAGE, DamagedError, ProblemsError, UserError, is_disk_full


def caused(error: Exception, cause: Exception) -> Exception:
    """`error` as `raise error from cause` leaves it."""
    error.__cause__ = cause
    return error


def while_handling(error: Exception, handled: Exception) -> Exception:
    """`error` as raising it in an except block leaves it."""
    error.__context__ = handled
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("io error: No space left on device (os error 28)"), True),
        (ValueError("full of errors"), False),
        (caused(RuntimeError("wrapped"), OSError(errno.ENOSPC, "")), True),
        (while_handling(RuntimeError("wrapped"), OSError(errno.ENOSPC, "")), True),
        (caused(RuntimeError("wrapped"), caused(ValueError("twice"), OSError(errno.EDQUOT, ""))), True),
        (caused(RuntimeError("wrapped"), ValueError("other")), False),
    ],
)
def test_a_full_disk_is_recognised_through_what_libraries_make_of_it(error: BaseException, full: bool) -> None:
    assert is_disk_full(error) is full


def test_problems_are_printed_one_a_line_with_the_status_of_wrong_usage() -> None:
    error = ProblemsError(["a: b", "c: d"])
    assert str(error) == "a: b\nc: d"
    assert error.problems == ["a: b", "c: d"]
    assert (error.exit_status, UserError("x").exit_status, DamagedError("x").exit_status) == (
        EXIT_USAGE, EXIT_FAILED, EXIT_FAILED
    )  # fmt: skip


def test_causes_that_go_in_a_circle_end_the_search() -> None:
    error = RuntimeError("not the disk")
    error.__cause__ = error
    assert not is_disk_full(error)
