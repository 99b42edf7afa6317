from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slm.core.artifact import Artifact, file_sha256
from slm.core.errors import UserError
from slm.corpus import SOURCES, read_documents, run, source
from slm.corpus.config import KEYS_OF_KIND
from slm.recipe import Recipe

Make = Callable[..., Recipe]


def test_every_kind_of_source_has_its_module_and_settings() -> None:
    assert set(SOURCES) == set(KEYS_OF_KIND)
    for kind in SOURCES:
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
    assert list(recipe.folder("corpus").parent.iterdir()) == []


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
