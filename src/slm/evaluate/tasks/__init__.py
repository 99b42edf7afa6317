"""Benchmarks: items of a file, or a task of lm-eval, to one row per item and metric.

`layouts` reads the published files, `choice`, `answer`, `code`, `judge` and `held_out_text` ask the model and judge
what it says, `items_table` is what all of them leave behind, `run` does it task by task.
"""

from __future__ import annotations
