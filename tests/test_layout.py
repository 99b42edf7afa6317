"""The tree's own rules: one list of names, tests beside sources, sizes, docstrings, declared dependencies."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from slm.core.config import Config
from slm.recipe import STAGES, Recipe

ROOT = Path(__file__).parents[1]
SOURCE, TESTS = ROOT / "src" / "slm", ROOT / "tests"
PACKAGES = sorted(folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file())
MODULES = sorted(SOURCE.rglob("*.py"))
LIBRARIES = {"core", "model", "objective", "rationales", "sweep"}
"""Packages that are no stage; rationales are made before the first, sweep runs stages."""
TESTED_ELSEWHERE = {
    "__init__": "what a package exports is tested where it is used",
    "__main__": "one line, the same in each stage; run by tests/test_end_to_end.py",
    "config": "every field is tested by tests/test_recipes.py, and where it takes effect",
}
OTHER_TEST_FOLDERS = {"golden", "__pycache__"}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 450, 75


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


def test_packages_sections_and_test_folders_are_one_list() -> None:
    annotated = ((name, field.annotation) for name, field in Recipe.model_fields.items() if name != "artifacts")
    sections = [name for name, kind in annotated if isinstance(kind, type) and issubclass(kind, Config)]
    assert sorted([*sections, "core"]) == PACKAGES
    folders = {folder.name for folder in TESTS.iterdir() if any(folder.glob("[!_.]*"))}
    assert folders - OTHER_TEST_FOLDERS == set(PACKAGES)
    assert {folder.name for folder in (ROOT / "configs").iterdir() if folder.is_dir()} <= set(sections)


def test_sections_stand_in_the_order_of_the_stages() -> None:
    sections = [name for name in Recipe.model_fields if name in STAGES]
    assert sections == list(STAGES)
    assert sorted([*STAGES, *LIBRARIES]) == PACKAGES


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_runs_as_a_command(stage: str) -> None:
    assert (SOURCE / stage / "__main__.py").is_file()


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "experiments", "misc"])
def test_nothing_lives_under_a_name_that_says_nothing(name: str) -> None:
    assert not list(SOURCE.rglob(name)) + list(SOURCE.rglob(f"{name}.py"))


def test_every_module_has_a_test_file_of_its_name() -> None:
    missing = []
    for module in MODULES:
        package = module.relative_to(SOURCE).parts[0] if module.parent != SOURCE else ""
        found = (TESTS / package).rglob(f"test_{module.stem}.py") if package else TESTS.glob(f"test_{module.stem}.py")
        if module.stem not in TESTED_ELSEWHERE and not list(found):
            missing.append(name_of(module))
    assert not missing, f"no tests/<package>/test_<module>.py for {missing}"


def test_every_test_file_has_a_module_of_its_name() -> None:
    known = {module.stem for module in MODULES} | {*PACKAGES, *EXTRA_TESTS}
    strays = [
        file.relative_to(TESTS).as_posix()
        for file in TESTS.rglob("test_*.py")
        if file.stem.removeprefix("test_") not in known
    ]
    assert not strays, f"named after nothing under src/slm: {strays}"


EXTRA_TESTS = {
    "bench_data",
    "bench_posttrain",
    "bench_preferences",
    "bench_quantizers",
    "fuzz_readers",
    "layers",
    "layout",
    "recipes",
    "packaging",
    "scripts",
    "end_to_end",
    "bad_input",
    "interruptions",
    "faults",
    "one_renderer",
}
"""Tests of the whole instead of a module."""


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_files_and_functions_stay_readable(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what comes in and what goes out"
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines; what does it do twice?"


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(
        "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "raise Not" + "Implemented", r"except.*:\s*pass\b"])
    )
    files = [*MODULES, *TESTS.rglob("*.py"), *(ROOT / "scripts").iterdir()]
    found = [
        f"{file.relative_to(ROOT)}: {match.group()}"
        for file in files
        if file.is_file()
        for match in marks.finditer(file.read_text(encoding="utf-8"))
    ]
    assert not found


def test_every_library_that_is_imported_is_declared_and_the_reverse() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = set(map(distribution, project["dependencies"]))
    extras = {distribution(line) for lines in project["optional-dependencies"].values() for line in lines}
    provided = importlib.metadata.packages_distributions()
    imported: dict[str, str] = {}
    for module in MODULES:
        for name in third_party(module):
            for candidate in provided.get(name, [name]):
                imported[candidate.lower().replace("_", "-")] = name_of(module)
    undeclared = {name: module for name, module in imported.items() if name not in core | extras}
    assert not undeclared, "imported but not in pyproject.toml"
    assert not core - set(imported) - NEEDED_BY_OTHERS, "in pyproject.toml but nowhere imported"


NEEDED_BY_OTHERS: set[str] = set()
"""Dependencies that no module names but that a library needs for what we ask of it."""


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def third_party(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            root = name.split(".")[0]
            if root not in ("slm", "__future__") and root not in sys.stdlib_module_names:
                yield root


def test_locked_versions_are_exact_and_name_no_local_build() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert not [line for line in lines if line.startswith(("nvidia", "cuda", "triton", "slm"))]
    locked = {distribution(line) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {distribution(line) for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]}
    assert wanted - locked == {"slm"}
