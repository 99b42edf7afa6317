"""A search in a process of its own, over runs that pretend: `searching.py RECIPE.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from slm.recipe import build_recipe
from slm.sweep import process
from slm.sweep.search import search
from slm.sweep.study import open_study

process.COMMAND = (sys.executable, str(Path(__file__).with_name("pretending.py")))
recipe = build_recipe(json.loads(Path(sys.argv[1]).read_text()))
search(open_study(recipe), recipe)
