"""The token cursor: where in the data a run stands, for all ranks together.

It counts rows of the global stream, never of a rank, so a run may go on with another world size or
micro-batch. `plan` is the hash of everything that decides which rows stand where (the files, the seed,
the weights, the row length, the packing): a cursor of another plan points at other data and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from slm.core.artifact import differences
from slm.core.errors import UserError


@dataclass(slots=True)
class Cursor:
    """`epoch` is whole passes over all rows, `tokens` positions consumed, `sources` rows taken of each."""

    plan: str
    plan_parts: dict[str, Any]
    epoch: int = 0
    row: int = 0
    tokens: int = 0
    sources: dict[str, int] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """The cursor as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position; refused if it belongs to another plan."""
        missing = [name for name in asdict(self) if name not in state]
        if missing:
            raise UserError(
                f"the data cursor of the checkpoint lacks {', '.join(missing)}; "
                "go on from an older checkpoint, or start over in another run=NAME"
            )
        if state["plan"] != self.plan:
            changes = "; ".join(differences(state["plan_parts"], self.plan_parts))
            raise UserError(
                f"the checkpoint was reading data plan {state['plan'][:12]}, but this run's is {self.plan[:12]} "
                f"({changes}), so its position means nothing here; "
                "put the settings and shards back, or start over in another run=NAME"
            )
        self.epoch, self.row, self.tokens = int(state["epoch"]), int(state["row"]), int(state["tokens"])
        self.sources = {name: int(count) for name, count in state["sources"].items()}
