"""Errors that a person can act on."""

from __future__ import annotations

import errno

import pytest

from slm.core.errors import EXIT_FAILED, EXIT_USAGE, DamagedError, ProblemsError, UserError, is_disk_full


def raised(error: Exception, cause: Exception | None = None, *, handling: Exception | None = None) -> BaseException:
    """`error` as it arrives after `raise ... from cause`, or while `handling` was being handled."""
    with pytest.raises(type(error)) as caught:
        if handling is not None:
            try:
                raise handling
            except type(handling):
                raise error  # noqa: B904
        raise error from cause
    return caught.value


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("io error: No space left on device (os error 28)"), True),
        (ValueError("full of errors"), False),
        (raised(RuntimeError("wrapped"), OSError(errno.ENOSPC, "")), True),
        (raised(RuntimeError("wrapped"), handling=OSError(errno.ENOSPC, "")), True),
        (raised(RuntimeError("wrapped"), raised(ValueError("twice"), OSError(errno.EDQUOT, ""))), True),
        (raised(RuntimeError("wrapped"), ValueError("other")), False),
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
