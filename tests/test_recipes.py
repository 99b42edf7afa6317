"""Every shipped recipe: it composes, says only what differs, has a page of facts, and every key it may set is read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from slm import pipeline
from slm.compose import load_recipe, option_files, read_yaml, recipe_files, shipped_folder
from slm.core.config import Config
from slm.corpus import SPLITS, Document, read_documents
from slm.recipe import Recipe, field_of, known_keys

SOURCE = Path(__file__).parents[1] / "src" / "slm"
DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPES = sorted(folder.name for folder in shipped_folder("recipes").iterdir() if (folder / "config.yaml").is_file())
FACTS = ["makes", "data", "tokens", "hardware", "expected cost", "run so far"]
VALIDATORS = {"model_validator", "field_validator"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_and_keeps_every_rule(name: str) -> None:
    recipe = load_recipe(f"recipe={name}")
    assert recipe.run == name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_only_what_differs(name: str) -> None:
    content = read_yaml(recipe_files()[name])
    base: Any = Recipe().model_dump(mode="json")
    for entry in content.pop("defaults", []):
        (section, option), *_ = entry.items()
        section = section.removeprefix("override /")
        base[section] = {**base[section], **read_yaml(option_files()[section][option])}
    del base["run"]  # names itself
    same = [".".join(path) for path, value in leaves(content) if dig(base, path) == value]
    assert not same, f"equal to what holds without them: {same}"


@pytest.mark.parametrize(
    "file", [*recipe_files().values(), *sorted(shipped_folder("configs").rglob("*.yaml"))], ids=str
)
def test_a_recipe_computes_nothing(file: Path) -> None:
    assert "${" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("section", "option"), [(section, option) for section, files in option_files().items() for option in files]
)
def test_a_piece_holds_known_keys_of_its_section(section: str, option: str) -> None:
    content = read_yaml(option_files()[section][option])
    unknown = [key for key in (f"{section}.{name}" for name in content) if field_of(key) is None]
    assert not unknown
    kind = Recipe.model_fields[section].annotation
    assert isinstance(kind, type)
    assert issubclass(kind, Config)
    kind.model_validate(content)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_its_facts(name: str) -> None:
    page = (shipped_folder("recipes") / name / "README.md").read_text(encoding="utf-8")
    facts = page.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+?) \|$", facts, re.MULTILINE))
    assert list(rows) == FACTS
    assert all(len(text) > 3 for text in rows.values())
    assert page.startswith(f"# {name}\n")
    assert f"recipe={name}" in page or f"scripts/{name}.sh" in page


def test_the_list_of_recipes_is_complete() -> None:
    page = (shipped_folder("recipes") / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\((\w+)/README\.md\)", page)) == RECIPES


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("pretrain_")])
def test_the_first_steps_of_a_page_fit_the_recipe(name: str, tmp_path: Path) -> None:
    page = (shipped_folder("recipes") / name / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"```\n(.*?)```", page, re.DOTALL)[-1].replace("\\\n", " ").strip()
    command, *words = re.findall(r"(?:[^\s']|'[^']*')+", block.removeprefix("python -m "))
    (tmp_path / "texts").mkdir()
    recipe = load_recipe(*(word.strip("'").replace("path: texts", f"path: {tmp_path}/texts") for word in words))
    assert command == "slm.pipeline"
    assert recipe.run == "first_steps"
    assert recipe.stop == "train"
    assert [source.kind for source in recipe.corpus.sources] == ["text"]
    assert 2 <= recipe.train.tokens // recipe.train.batch_tokens <= 10
    shape = load_recipe(f"recipe={name}").model
    assert recipe.model == shape.model_copy(update={"vocab_size": recipe.tokenizer.vocab_size})


def test_every_declared_key_is_read_somewhere() -> None:
    reads = list(attribute_reads())
    never = [
        key
        for key in known_keys()
        if not any(is_read(key, package, receiver, attribute) for package, receiver, attribute in reads)
    ]
    assert not never, f"declared, but nothing reads them: {never}"


def test_every_declared_key_says_what_it_means() -> None:
    silent = [key for key in known_keys() if key.count(".") and not described(key)]
    assert not silent


def described(key: str) -> bool:
    field = field_of(key)
    nested = field.annotation if field else None
    is_config = isinstance(nested, type) and issubclass(nested, Config)
    return bool(field and field.description) or (is_config and bool(nested.__doc__))


def is_read(key: str, package: str, receiver: str, attribute: str) -> bool:
    """A key counts as read where its own package takes the attribute, or another takes it from a thing named so."""
    section, _, name = key.rpartition(".")
    if attribute != name:
        return False
    owner = section.split(".")[0]
    return package == owner or receiver.rpartition(".")[2] == (section.rpartition(".")[2] or "recipe")


def attribute_reads() -> Iterator[tuple[str, str, str]]:
    """Every `receiver.attribute` that is loaded in the source, as (package, receiver, attribute); validators left out.

    A validator looks at every value that it refuses, so what only a validator reads has no effect.
    """
    for file in SOURCE.rglob("*.py"):
        package = file.relative_to(SOURCE).parts[0] if file.parent != SOURCE else ""
        tree = ast.parse(file.read_text(encoding="utf-8"))
        skipped = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (is_validator(node) or is_rule(node, file))
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if node in skipped:
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield package, ast.unparse(node.value), node.attr
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".section"):
                yield package, "", ast.unparse(node.slice).strip("'")  # artifact.section["key"]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                yield from ((package, "artifacts", name) for name in fields_behind(ast.unparse(node.args[0])))


def fields_behind(receiver: str) -> list[str]:
    """`getattr(recipe.artifacts, stage)` reads every field of the section."""
    field = field_of(receiver.removeprefix("self.").removeprefix("recipe."))
    kind = field.annotation if field else None
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def is_validator(function: ast.FunctionDef) -> bool:
    return any(name in ast.unparse(decorator) for decorator in function.decorator_list for name in VALIDATORS)


def is_rule(function: ast.FunctionDef, file: Path) -> bool:
    return file.name == "recipe.py" and function.name.startswith("_") and "Iterator" in ast.unparse(function)


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path, content


def dig(content: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        content = content.get(part) if isinstance(content, dict) else None
    return content


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")
def test_open_text_prepares_real_files_of_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").symlink_to(DATA.resolve())
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipe=open_text", "to=shards", "tokenizer.vocab_size=800", "model.vocab_size=800")
    few = tuple(source.model_copy(update={"max_documents": 25}) for source in recipe.corpus.sources)
    settings = {"sources": few, "validation_fraction": 0.2}
    made = pipeline.run(recipe.model_copy(update={"corpus": recipe.corpus.model_copy(update=settings)}))
    counts, shards = made["corpus"].counts, made["shards"].counts
    texts: dict[str, list[Document]] = {source.label: [] for source in few}
    for document in (document for split in SPLITS for document in read_documents(made["corpus"], split)):
        texts[document.source].append(document)
    assert {name: len(found) for name, found in texts.items()} == {
        "wikitext": 25, "tinystories": 25, "gutenberg": 25, "gutenberg_german": 3, "dolly": 25,
    }  # fmt: skip
    assert all(record["licence"] and record["origin"] for record in counts["sources"].values())
    books = [document.text for name in ("gutenberg", "gutenberg_german") for document in texts[name]]
    assert not any("\r" in text or "***" in text or "roject Gutenberg E" in text for text in books)
    assert any(text.lstrip().startswith("CHAPTER II. The Pool of Tears\n") for text in books)
    assert any("Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte" in text for text in books)
    assert {document.metadata["language"] for document in texts["gutenberg_german"]} == {"de"}
    assert all(document.text.startswith(" = ") for document in texts["wikitext"])
    joined = "When did Virgin Australia start operating?\n\nVirgin Australia, the trading name"
    assert any(document.text.startswith(joined) for document in texts["dolly"])
    items = {name: found["items"] for name, found in counts["decontamination"]["evaluations"].items()}
    assert items == {"gsm8k": 1_319, "arc_easy": 2_376, "hellaswag": 1_000, "humaneval": 164, "mbpp": 974}
    assert set(shards["sources"]) == set(texts)
    assert shards["train"]["padding"] < 0.1 * shards["train"]["tokens"]
    assert "evaluation" in capsys.readouterr().out
