from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm import cli
from slm.core.artifact import Draft, Spec, make
from slm.core.config import Config
from slm.core.errors import DamagedError, ProblemsError, UserError
from slm.corpus.build import CHANGED, DROPPED
from slm.corpus.cleaning.show import corpus_of, kept_by_source, sections
from slm.corpus.document import Document
from slm.corpus.tables import DocumentWriter


def record(reason: str, name: str, source: str, text: str, note: str = "") -> str:
    content = {"reason": reason, "id": name, "source": source, "note": note, "characters": len(text), "text": text}
    return json.dumps(content, ensure_ascii=False) + "\n"


def change(step: str, name: str, begin: int, before: str, after: str) -> str:
    content = {"step": step, "id": name, "source": "web", "characters": [1_234, 1_230], "from": begin}
    return json.dumps({**content, "before": before, "after": after}, ensure_ascii=False) + "\n"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run whose corpus kept three documents of two sources, dropped three for two reasons, and changed two."""

    def build(draft: Draft) -> None:
        with DocumentWriter(draft.path, "train") as writer:
            kept = (("1", "web", "a kept <page>"), ("2", "web", "another"), ("3", "books", "a book"))
            for name, source, text in kept:
                writer.write(Document(text, name, source, "CC0-1.0", "o", {"language": "en"}))
        (draft.path / DROPPED).write_text(
            record("c4/few_sentences", "7", "books", "two\x1b]0;title\x07\u2028lines")
            + record("gopher_quality/short", "8", "web", "one", "1 word")
            + record("gopher_quality/short", "9", "elsewhere", "three"),
            encoding="utf-8",
        )
        (draft.path / CHANGED).write_text(
            change("unicode", "1", 0, "sch\u00c3\u00b6n\x00 <b>", "sch\u00f6n <b>")
            + change("pii", "2", 850, "a\r\nb@c.de", "a\nemail@example.com"),
            encoding="utf-8",
        )
        draft.counts.update(cleaning={"pii/documents changed": 1_300, "pii/emails": 9, "unicode/documents changed": 1})
        draft.counts.update(skipped={"gopher_quality/short": 1200, "c4/few_sentences": 1, "duplicate": 7})

    make(tmp_path / "r" / "corpus", Spec("corpus", Config()), build)
    return tmp_path / "r"


def test_kept_and_dropped_stand_side_by_side(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["corpus", "audit", str(run_folder)])
    shown = capsys.readouterr().out
    first, second = "gopher_quality/short: 1,200 documents dropped", "c4/few_sentences: 1 document dropped"
    assert 0 < shown.index(first) < shown.index(second)
    line = next(line for line in shown.splitlines() if "dropped: 7" in line)
    assert "kept: 3 (6 characters, language en)" in line, "of the same source"
    assert "dropped: 8 (3 characters; 1 word)" in shown
    assert "duplicate" not in shown, "no sample, nothing to show"
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_source_of_which_nothing_was_kept_stands_beside_others(run_folder: Path) -> None:
    first, *_ = sections(corpus_of(run_folder))
    assert [dropped.text for _, dropped in first.pairs] == ["one", "three"]
    assert all(kept.text for kept, _ in first.pairs)


def test_changed_documents_stand_beside_what_they_were(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["corpus", "audit", str(run_folder)])
    shown = capsys.readouterr().out
    assert 0 < shown.index("c4/few_sentences") < shown.index("pii: 1,300 documents changed")
    assert shown.index("pii: 1,300 documents changed") < shown.index("unicode: 1 document changed")
    line = next(line for line in shown.splitlines() if "before: 2" in line)
    assert "before: 2 (1,234 characters, from character 850 on)" in line
    assert "after: 2 (1,230 characters, from character 850 on)" in line
    assert "before: 1 (1,234 characters)" in shown


def test_the_page_holds_the_same_and_escapes_it(run_folder: Path, tmp_path: Path) -> None:
    cli.dispatch(["corpus", "audit", str(run_folder / "corpus"), str(tmp_path / "audit.html")])
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.count('<div class="pair">') == 5
    assert "a<del>\\r</del>" in page, "what cannot be seen is named"
    assert "<del>sch\u00c3\u00b6n\\x00</del> &lt;b&gt;" in page
    assert "<ins>sch\u00f6n</ins> &lt;b&gt;" in page
    assert "a kept &lt;page&gt;" in page
    assert "<page>" not in page
    assert "{" not in page.partition("</style>")[2]
    assert "http" not in page, "the page asks nobody for anything"


def test_kept_documents_are_chosen_by_their_ids_alone() -> None:
    documents = [Document(f"text {number}", str(number), "s", "CC0-1.0", "o") for number in range(100)]
    chosen = kept_by_source(iter(documents))
    assert chosen == kept_by_source(iter(documents[::-1]))
    assert len(chosen["s"]) == 12
    assert [shown.text for shown in chosen["s"]] != [document.text for document in documents[:12]]


def test_wrong_words_and_places_are_refused_with_the_way_out(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"usage: slm corpus audit RUN \[PAGE.html\]"):
        cli.dispatch(["corpus", "audit"])
    with pytest.raises(UserError, match=r"holds no corpus; give a run or its corpus"):
        cli.dispatch(["corpus", "audit", str(tmp_path)])
    (run_folder / "corpus" / DROPPED).write_text("x\n")
    with pytest.raises(DamagedError):
        cli.dispatch(["corpus", "audit", str(run_folder)])
