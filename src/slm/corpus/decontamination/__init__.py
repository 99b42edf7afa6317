"""Decontamination: no document of the corpus holds an item of the evaluations that it will be judged by.

`benchmarks` reads the items, `index` keeps their runs of words, `check` finds them in documents and drops or cuts
these, `report` says which items were found, by how many documents and where, and which are clean.
"""

from __future__ import annotations
