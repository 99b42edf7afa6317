"""What a task came to: rows, and what was left out and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from slm.evaluate.tasks.items_table import Result


@dataclass(slots=True)
class Outcome:
    """The rows of a task's items; `skipped` counts by reason the items that have none."""

    results: list[Result] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """Facts about how it was run, such as what kept programs from the network."""

    def skip(self, reason: str, items: int = 1) -> None:
        """Count items that are left out."""
        self.skipped[reason] = self.skipped.get(reason, 0) + items
