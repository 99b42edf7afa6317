"""What counts as a duplicate."""

from __future__ import annotations

from slm.core.config import Config


class DuplicatesConfig(Config):
    """Documents that repeat an earlier one are left out; the first in source order stays."""

    exact: bool = True
    """Leave out documents whose text is exactly that of an earlier one."""
