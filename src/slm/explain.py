"""`slm explain recipe=NAME KEY`: what a setting means, its value, and the layer that it comes from.

The layers, from the strongest: a word on the command line, the recipe's file, a piece that either of them
chose (`model=300m`), the default beside the code. Only reading: nothing is run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from slm.compose import DEFAULT_RECIPE, load_recipe, option_files, read_yaml, recipe_files
from slm.core.errors import ProblemsError
from slm.recipe import Recipe, field_of, known_keys


def explain(arguments: Sequence[str]) -> str:
    """What a dotted key means, its value in the recipe, and which layer it comes from."""
    keys = [word for word in arguments if "=" not in word]
    overrides = [word for word in arguments if "=" in word]
    if len(keys) != 1:
        raise ProblemsError(["usage: slm explain recipe=NAME [KEY=VALUE ...] KEY, such as train.tokens"])
    key = keys[0]
    field = field_of(key)
    if field is None:
        near = difflib.get_close_matches(key, list(known_keys()), 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; slm explain train shows a section's keys"
        raise ProblemsError([f"{key}: no such key{hint}"])
    value, default = (_shown(_pick(recipe, key.split("."))) for recipe in (load_recipe(*overrides), Recipe()))
    lines = [f"{key} = {value}", f"  from {_provenance(key, overrides)}"]
    if default != value:
        lines.append(f"  default {default}")
    return "\n".join([*lines, *([f"  {field.description}"] if field.description else [])])


def _pick(value: Any, parts: Sequence[str]) -> Any:
    """The value at a dotted key; of each item, where the key leads through a list."""
    for index, part in enumerate(parts):
        if isinstance(value, tuple):
            named = [item for item in value if getattr(item, "step", "") == part]  # items of one kind in a list of many
            if named or (value and not hasattr(value[0], part)):
                return [_pick(item, parts[index + 1 :]) for item in named]
            return [_pick(item, parts[index:]) for item in value]
        value = getattr(value, part, None)
    return value


def _provenance(key: str, overrides: Sequence[str]) -> str:
    aliases = {"from": "start", "to": "stop"}
    typed = {aliases.get(name, name): word for word in overrides for name in [word.partition("=")[0].lstrip("+")]}
    options, section = option_files(), key.split(".")[0]
    chosen = ""
    if section in options and section in typed and not typed[section].partition("=")[2].startswith("{"):
        chosen = typed.pop(section).partition("=")[2]
    for prefix in _prefixes(key):
        if prefix in typed:
            return f"the command line ({typed[prefix]})"
    recipe_file = recipe_files()[typed.get("recipe", f"recipe={DEFAULT_RECIPE}").partition("=")[2]]
    content = read_yaml(recipe_file)
    if any(_holds(content, prefix.split(".")) for prefix in _leaves(key, content)):
        return str(recipe_file)
    chosen = chosen or _chosen_option(content, section)
    if chosen and _holds(read_yaml(options[section][chosen]), key.split(".")[1:]):
        return str(options[section][chosen])
    return f"the default in src/slm/{section}/config.py" if "." in key else "the default in src/slm/recipe.py"


def _prefixes(key: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _leaves(key: str, content: Mapping[str, Any]) -> Iterator[str]:
    """The key, and those above it that hold a list in `content`: a list is replaced as a whole."""
    for prefix in _prefixes(key):
        value: Any = content
        for part in prefix.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if prefix == key or isinstance(value, list):
            yield prefix


def _chosen_option(recipe: Mapping[str, Any], section: str) -> str:
    for entry in recipe.get("defaults", []):
        if isinstance(entry, dict) and f"override /{section}" in entry:
            return str(entry[f"override /{section}"])
    return ""


def _holds(content: Any, parts: Sequence[str]) -> bool:
    for part in parts:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _shown(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        value = [item.model_dump(mode="json") if hasattr(item, "model_dump") else item for item in value]
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()
