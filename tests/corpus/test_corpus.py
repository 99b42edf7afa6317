from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slm.core.artifact import Artifact, file_sha256
from slm.core.errors import UserError
from slm.corpus import SOURCES, read_documents, run, source, units_folder
from slm.corpus.config import KEYS_OF_KIND
from slm.corpus.samples import PER_NAME
from slm.recipe import Recipe

Make = Callable[..., Recipe]


def test_every_kind_of_source_has_its_module_and_settings() -> None:
    assert set(SOURCES) == set(KEYS_OF_KIND)
    for kind in SOURCES:
        assert callable(source(kind).pieces)
        assert callable(source(kind).read)
        assert callable(source(kind).signature)


def test_a_second_run_does_nothing_and_says_so(
    recipe_of: Make, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of({"kind": "text", "path": str(folder), "licence": "MIT"})
    first = run(recipe)
    capsys.readouterr()
    assert run(recipe).fingerprint == first.fingerprint
    assert "corpus: up to date in" in capsys.readouterr().out


def test_a_changed_file_makes_the_corpus_out_of_date(recipe_of: Make, folder: Path) -> None:
    recipe = recipe_of({"kind": "text", "path": str(folder), "licence": "MIT"})
    run(recipe)
    (folder / "03.txt").write_text("something else entirely")
    with pytest.raises(UserError, match=r"made by another recipe or from other data \(inputs.text.03.txt"):
        run(recipe)
    again = run(recipe.model_copy(update={"redo": True}))
    texts = [d.text for split in ("train", "validation") for d in read_documents(again, split)]
    assert "something else entirely" in texts


def test_the_same_text_gives_the_same_files(corpus_of: Callable[..., Artifact], folder: Path) -> None:
    item = {"kind": "text", "path": str(folder), "licence": "MIT"}
    one, two = corpus_of(item, run="one"), corpus_of(item, run="two")
    assert one.fingerprint == two.fingerprint
    assert all(file_sha256(one.file(name)) == file_sha256(two.file(name)) for name in one.manifest["files"])


def test_a_corpus_from_elsewhere_is_taken_as_it_is(recipe_of: Make, folder: Path) -> None:
    made = run(recipe_of({"kind": "text", "path": str(folder), "licence": "MIT"}))
    other = recipe_of({"kind": "stdlib"}, run="other")
    paths = other.artifacts.model_copy(update={"corpus": str(made.path)})
    assert run(other.model_copy(update={"artifacts": paths})).fingerprint == made.fingerprint
    assert not other.folder("corpus").exists()


def test_an_interrupted_corpus_leaves_nothing_half_made(
    recipe_of: Make, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slm.corpus import build

    recipe = recipe_of({"kind": "text", "path": str(folder), "licence": "MIT"})
    taken = iter(range(10))

    def interrupt(*_: object) -> str:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return "train"

    monkeypatch.setattr(build, "split_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    assert [path.name for path in recipe.folder("corpus").parent.iterdir()] == ["corpus.units"]
    assert not list(recipe.folder("corpus").parent.glob("**/*.tmp-*"))


def test_parts_and_workers_change_no_byte(recipe_of: Make, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = {"kind": "text", "path": str(folder), "licence": "MIT"}
    for number in range(20):
        (folder / f"{number:02d}.txt").write_text(f"text of {number}@here.com " + "x" * 200, encoding="utf-8")
    settings = {"unit_bytes": 1_000, "steps": [{"step": "pii"}]}
    whole = run(recipe_of(item, run="whole", **settings))
    assert whole.file("changed.jsonl").read_text().count("\n") == PER_NAME
    assert run(recipe_of(item, run="parts", **settings, part="1/2")) is None
    assert re.search(r"part 1/2 is made, \d+ of \d+ units are there", capsys.readouterr().out)
    in_parts = run(recipe_of(item, run="parts", **settings, workers=2))
    assert in_parts.fingerprint == whole.fingerprint


def test_a_part_that_does_not_exist_is_refused(recipe_of: Make, folder: Path) -> None:
    with pytest.raises(UserError, match=r"corpus.part \(2/2\) counts from 0: the parts of 2 are 0/2 to 1/2"):
        run(recipe_of({"kind": "text", "path": str(folder), "licence": "MIT"}, part="2/2"))


def test_units_that_did_not_change_are_used_again(recipe_of: Make, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text("\n\n".join(f"{number} {n} " + "x" * 200 for n in range(5)))
    item = {"kind": "text", "path": str(texts), "licence": "MIT", "separator": r"\n\n"}
    recipe = recipe_of(item, unit_bytes=2_000, redo=True)
    run(recipe)
    units = units_folder(recipe)
    before = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    assert len(before) == 8
    (texts / "3.txt").write_text("something else\n\n" + "in two pieces " * 80)
    changed = run(recipe)
    after = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    assert len(after) == 8
    assert len(before.items() & after.items()) == 7
    fresh = run(recipe_of(item, unit_bytes=2_000, run="fresh"))
    assert fresh.fingerprint == changed.fingerprint
    run(recipe_of(item, unit_bytes=2_000, redo=True, validation_fraction=0.3))
    assert {path.name: path.stat().st_mtime_ns for path in units.iterdir()} == after
    run(recipe_of(item, unit_bytes=2_000, redo=True, steps=[{"step": "unicode", "repair": False}]))
    assert not {path.name for path in units.iterdir()} & set(after)
    run(recipe_of(item, unit_bytes=2_000, redo=True, keep_units=False))
    assert not units.exists()


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'pyarrow', 'datasets', 'transformers', 'numpy'}"
    code = f"import sys, slm.corpus, slm.corpus.__main__; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "set()"


def test_bad_input_ends_in_one_sentence_and_a_status(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Käfer".encode("latin-1"))
    arguments = [
        f"runs_dir={tmp_path}/runs",
        f"corpus.sources=[{{kind: text, path: {tmp_path}/latin.txt, licence: unknown}}]",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "slm.corpus", *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert "latin.txt: byte 0xe4 at offset 1 is not UTF-8; convert the text" in done.stderr
