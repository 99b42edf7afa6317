"""Which evaluations the corpus is kept clean of."""

from __future__ import annotations

from slm.core.config import Config


class DecontaminationConfig(Config):
    """Documents that overlap with items of an evaluation are left out."""
