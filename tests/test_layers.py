"""Who imports whom: the table of layers, read from the source with `ast`, and the imports that must stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "slm"

MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "corpus": {"core"},
    "tokenizer": {"core", "corpus"},
    "shards": {"core", "corpus", "tokenizer"},
    "model": {"core"},
    "objective": {"core", "model"},
    "distill": {"core", "tokenizer", "shards", "model", "train"},
    "train": {"core", "tokenizer", "shards", "model", "objective", "evaluate", "serve"},
    "evaluate": {"core", "corpus", "tokenizer", "shards", "model", "objective", "serve"},
    "compress": {"core", "corpus", "tokenizer", "shards", "model", "evaluate", "serve"},
    "export": {"core", "corpus", "tokenizer", "shards", "model", "evaluate", "compress", "serve"},
    "serve": {"core", "tokenizer", "model", "export"},
    "rationales": {"core", "tokenizer", "evaluate", "serve"},
    "safety": {"core", "corpus", "tokenizer", "model", "evaluate", "serve"},
    "release": {"core", "corpus", "tokenizer", "model", "evaluate", "export", "report", "safety"},
    "report": {"core", "corpus", "tokenizer", "shards", "model", "evaluate", "train"},
    "sweep": {"core", "evaluate", "train", "report"},
}
"""Beside these, everybody but `core` may import `slm.recipe` and another package's `config`; `__main__` the command."""
ENTRY_POINTS = {
    "ablation",
    "adapter",
    "card",
    "chain",
    "chat",
    "cli",
    "compare",
    "compose",
    "consolidate",
    "coordinate_check",
    "diff",
    "explain",
    "generate",
    "lr_range",
    "one_of_many",
    "pick",
    "pipeline",
    "plan",
    "power",
    "recipe",
    "scaling",
}
HEAVY = (
    "torch",
    "scipy",
    "transformers",
    "pyarrow",
    "datasets",
    "sentencepiece",
    "xllamacpp",
    "onnx",
    "onnxruntime",
    "matplotlib",
    "hydra",
)


def source_files(package: str) -> list[Path]:
    return sorted((SOURCE / package).rglob("*.py"))


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, anywhere in it, as (dotted name, line)."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write imports in full, from slm..."
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def ours(file: Path) -> Iterator[tuple[list[str], int]]:
    """What a file imports of ours, as (parts after `slm`, line)."""
    yield from ((name.split(".")[1:], line) for name, line in imports(file) if name.split(".")[0] == "slm")


def packages() -> set[str]:
    return {folder.name for folder in SOURCE.iterdir() if (folder / "__init__.py").is_file()}


def test_the_table_names_exactly_the_packages_that_exist() -> None:
    assert set(MAY_IMPORT) == packages()


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    wrong = []
    for file in source_files(package):
        allowed = {package, *MAY_IMPORT[package]} | ({"recipe", "__version__"} if package != "core" else set())
        if file.name == "__main__.py":
            allowed.add("compose")
        for parts, line in ours(file):
            is_config = package != "core" and parts[0] in MAY_IMPORT and parts[1:2] == ["config"]
            if parts and parts[0] not in allowed and not is_config:
                wrong.append(f"{file.relative_to(SOURCE)}:{line} imports slm.{'.'.join(parts)}")
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_round_in_a_circle() -> None:
    above = {
        package: {
            parts[0]
            for file in source_files(package)
            for parts, _ in ours(file)
            if parts and parts[0] in MAY_IMPORT and parts[0] != package and parts[1:2] != ["config"]
        }
        for package in MAY_IMPORT
    }
    settled: set[str] = set()
    while len(settled) < len(above):
        ready = {package for package in above if package not in settled and above[package] <= settled}
        assert ready, f"these import each other: {sorted(set(above) - settled)}"
        settled |= ready


def test_the_recipe_imports_nothing_of_a_package_but_its_config() -> None:
    for parts, line in ours(SOURCE / "recipe.py"):
        assert parts[0] == "core" or parts[1] == "config", f"recipe.py:{line} imports slm.{'.'.join(parts)}"


def test_top_level_modules_are_the_known_entry_points() -> None:
    assert {file.stem for file in SOURCE.glob("*.py")} - {"__init__"} == ENTRY_POINTS


@pytest.mark.parametrize("package", ["corpus", "tokenizer"])
def test_text_is_handled_without_torch(package: str) -> None:
    for file in source_files(package):
        for name, line in imports(file):
            assert name.split(".")[0] not in ("torch", "transformers"), f"{file}:{line} imports {name}"


def test_settings_are_read_without_anything_heavy() -> None:
    names = [f"slm.{name}" for name in ("recipe", "compose", "explain", "cli", "pipeline", *sorted(MAY_IMPORT))]
    program = (
        "import importlib, sys\n"
        f"for name in {names}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_corpus_and_tokenizer_are_made_where_torch_is_missing(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None  # importing either now fails\n"
        "from slm import corpus, tokenizer\n"
        "from slm.compose import load_recipe\n"
        "recipe = load_recipe('recipe=smoke')\n"
        "corpus.run(recipe), tokenizer.run(recipe)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "runs" / "smoke").iterdir()} == {"corpus", "corpus.units", "tokenizer"}
