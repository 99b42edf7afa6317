"""The docstrings of built-in and C-extension modules, which have no source to read, as plain text.

Only the text that C code carries is rendered: constants, inherited methods and addresses are left out, so
that the result depends on the interpreter's version and build alone.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

NOT_IMPORTED = re.compile(r"_?xx|_test|_ctypes_test|readline$|antigravity$")
"""Modules made for CPython's own tests, and readline, whose import writes to some terminals."""
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
RECEIVER = re.compile(r"^\(\$\w+(, /)?(, )?")
"""`$self` and `$module` in C code's signatures, which callers do not pass."""


def module_names() -> list[str]:
    """Built-in modules and the extension modules of the standard library, sorted."""
    folder = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    found = {file.name.split(".")[0] for file in folder.glob("*") if file.name.endswith(tuple(EXTENSION_SUFFIXES))}
    return sorted(name for name in found | set(sys.builtin_module_names) if not NOT_IMPORTED.match(name))


def module_prose(name: str) -> str:
    """One module's docstrings under headings; empty where it cannot be imported or says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules are deprecated, and reading about them is not using them
        try:
            module = importlib.import_module(name)
        except ImportError:
            return ""
        sections = list(_sections(module))
    head = inspect.cleandoc(module.__doc__ or "")
    if not sections and not head:
        return ""
    title = f"The module {name}"
    return "\n\n".join(part for part in (title, head, *sections) if part) + "\n"


def _sections(module: ModuleType) -> Iterator[str]:
    """A paragraph for each public function, class and method that the module itself defines."""
    for name in sorted(vars(module)):
        value = vars(module)[name]
        if name.startswith("_"):
            continue
        if inspect.isclass(value):
            yield from _class_sections(name, value)
        elif inspect.isbuiltin(value):  # what a running program put there, such as a hook, is Python and left out
            yield from _section(name, value)


def _class_sections(name: str, kind: type) -> Iterator[str]:
    yield from _section(f"class {name}", kind)
    for attribute in sorted(vars(kind)):
        if not attribute.startswith("_"):
            yield from _section(f"{name}.{attribute}", vars(kind)[attribute])


def _section(title: str, value: object) -> Iterator[str]:
    text = getattr(value, "__doc__", None)
    if not isinstance(text, str) or not text.strip():
        return
    signature = getattr(value, "__text_signature__", None) or ""  # as text: evaluating it can fail
    signature = RECEIVER.sub("(", signature)
    body = "\n".join(f"    {line}".rstrip() for line in inspect.cleandoc(text).splitlines())
    yield ADDRESS.sub("", f"{title}{signature}\n{body}")
