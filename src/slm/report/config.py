"""What the report shows."""

from __future__ import annotations

from pydantic import Field

from slm.core.config import Config


class ReportConfig(Config):
    """Run to one self-contained HTML file."""

    title: str = ""
    """Heading; by default the name of the run."""
    sample_steps: int = Field(4, ge=1)
    """At how many steps of the training, spread evenly and the last among them, samples are shown."""
    compare_with: str = ""
    """Folder of another evaluated run, of whose items each is compared with this run's; empty compares with none."""
