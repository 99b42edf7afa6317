"""Which cleaning steps run, in which order."""

from __future__ import annotations

from typing import Literal

from slm.core.config import Config


class StepConfig(Config):
    """One cleaning step."""

    name: Literal["nfc"]
    """nfc: Unicode normal form C, so that a character with its accents is written one way."""
