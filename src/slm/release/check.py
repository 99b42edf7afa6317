"""What a check of the gate says: its name, whether it held, what was found, and the way out where it did not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slm.core.console import say, table
from slm.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the gate's list."""

    name: str
    passed: bool
    found: str
    way_out: str = ""

    @property
    def sentence(self) -> str:
        """What a person reads of a check that failed."""
        return f"{self.name}: {self.found}" + (f"; {self.way_out}" if self.way_out else "")


def held(name: str, found: str) -> Check:
    """A check that passed."""
    return Check(name, True, found)


def failed(name: str, found: str, way_out: str) -> Check:
    """A check that did not."""
    return Check(name, False, found, way_out)


def show(title: str, checks: Iterable[Check]) -> None:
    """Print the list as a table."""
    table(title, ("check", "", "found"), [(one.name, "held" if one.passed else "FAILED", one.found) for one in checks])


def require(what: str, checks: list[Check]) -> None:
    """Refuse with every check that failed, one a line."""
    bad = [one.sentence for one in checks if not one.passed]
    if bad:
        say(f"{what}: {len(bad)} of {len(checks)} checks failed")
        raise UserError("\n".join(bad))
