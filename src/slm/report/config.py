"""What the report shows."""

from __future__ import annotations

from slm.core.config import Config, neutral


class ReportConfig(Config):
    """Run to one self-contained HTML file."""

    title: str = neutral("")
    """Heading; by default the name of the run."""
