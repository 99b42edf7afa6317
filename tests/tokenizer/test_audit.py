"""The report's numbers against plain counting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from slm.core.artifact import Artifact
from slm.corpus import Document
from slm.tokenizer import Tokenizer, audit
from slm.tokenizer.audit import RARE_BELOW
from slm.tokenizer.probes import PROBES

CorpusOf = Callable[..., Artifact]


def test_figures_are_those_of_plain_counting(
    tokenizer: Tokenizer, rows: list[tuple[str, str]], corpus_of: CorpusOf
) -> None:
    corpus = corpus_of(rows[:4] + rows[-3:], [("some\0 text ▁\n", "")])
    report = audit.audit(tokenizer, corpus, threads=2)
    train = report["splits"]["train"]
    ids = [token for text, _ in rows[:4] + rows[-3:] for token in tokenizer.encode(text)]
    num_bytes = sum(len(text.encode()) for text, _ in rows[:4] + rows[-3:])
    assert (train["documents"], train["bytes"], train["tokens"]) == (7, num_bytes, len(ids))
    assert train["bytes_per_token"] == pytest.approx(num_bytes / len(ids), abs=1e-4)
    assert train["byte_fallback_rate"] == pytest.approx(sum(6 <= token < 262 for token in ids) / len(ids), abs=1e-6)
    assert train["whole_split"]
    assert train["domains"]["code"]["documents"] == 4
    assert train["domains"]["code"]["bytes"] + train["domains"]["prose"]["bytes"] == num_bytes
    held_out = report["splits"]["validation"]
    assert held_out["domains"].keys() == held_out["sources"].keys() == {"source"}
    assert held_out["languages"] == {}
    used, rare_anywhere = Counter(ids), 0
    for domain in ("code", "prose"):
        chosen = [token for text, its in rows[:4] + rows[-3:] if its == domain for token in tokenizer.encode(text)]
        rare_here = sum(token >= 262 and used[token] < RARE_BELOW for token in chosen)
        assert train["domains"][domain]["rare_token_rate"] == pytest.approx(rare_here / len(chosen), abs=1e-6)
        rare_anywhere += rare_here
    assert rare_anywhere > 0
    assert held_out["byte_fallback_rate"] == pytest.approx(4 / held_out["tokens"], abs=1e-6)
    rare = [token for token in range(262, tokenizer.vocab_size) if used[token] < RARE_BELOW]
    assert report["rare"]["pieces"] == len(rare)
    assert report["rare"]["share_of_vocabulary"] == pytest.approx(len(rare) / tokenizer.vocab_size, abs=1e-6)
    assert report["rare"]["never_seen"] == sum(used[token] == 0 for token in rare)
    assert [entry["seen"] for entry in report["rare"]["examples"]] == sorted(used[token] for token in rare)[:20]


def test_vocabulary_is_described(tokenizer: Tokenizer, corpus_of: CorpusOf) -> None:
    corpus = corpus_of([("text\n", "")], [])
    report = audit.audit(tokenizer, corpus, threads=1)
    vocabulary = report["vocabulary"]
    assert vocabulary["hash"] == tokenizer.hash
    parts = sum(vocabulary[part] for part in ("control", "bytes", "characters", "merged"))
    assert parts == vocabulary["size"] == tokenizer.vocab_size
    assert report["longest_pieces"] == sorted(report["longest_pieces"], key=len, reverse=True)
    assert len(report["longest_pieces"][0]) == max(len(text) for text, _, _ in tokenizer.pieces()[262:])
    assert report["splits"]["validation"]["bytes_per_token"] == 0


def test_large_splits_are_sampled_and_say_so(
    tokenizer: Tokenizer, corpus_of: CorpusOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of([("words " * 100, "")] * 200, [("x", "")])
    monkeypatch.setattr(audit, "AUDIT_BYTES", 60_000)
    train = audit.audit(tokenizer, corpus, threads=1)["splits"]["train"]
    assert 60 < train["documents"] < 140
    assert not train["whole_split"]


def test_printed_table_names_splits_and_domains(
    tokenizer: Tokenizer, rows: list[tuple[str, str]], corpus_of: CorpusOf, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpus_of([rows[0], rows[-1]], [("held out", "")])
    audit.print_report(audit.audit(tokenizer, corpus, threads=1))
    printed = capsys.readouterr().out
    assert "1,024 ids" in printed
    for row in ("train: all", "train: code", "train: prose", "validation: all", "probe: German", "rare tokens"):
        assert row in printed
    assert "validation: source" not in printed


def test_documents_are_grouped_by_language_where_it_is_recorded(tokenizer: Tokenizer, corpus_of: CorpusOf) -> None:
    corpus = corpus_of([("plain words", "code")], [("x", "")])
    documents = [
        Document("ein Wort", "1", "books", "CC0-1.0", "", {"language": "de"}),
        Document("one word", "2", "books", "CC0-1.0", "", {"language": "en", "domain": "prose"}),
        Document("nobody knows", "3", "web", "CC0-1.0", ""),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "read_documents", lambda *_: iter(documents))
        train = audit.audit(tokenizer, corpus, threads=1)["splits"]["train"]
    assert {kind: {name: item["documents"] for name, item in train[kind].items()} for kind in audit.GROUPS} == {
        "domains": {"books": 1, "prose": 1, "web": 1},
        "sources": {"books": 2, "web": 1},
        "languages": {"de": 1, "en": 1},
    }


def test_counting_in_parts_counts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "COUNTED_TOGETHER", 7)
    tally = audit.Tally(10)
    for start in range(0, 40, 4):
        tally.add(4, np.arange(start, start + 4, dtype=np.int32) % 10)
    assert tally.seen.tolist() == [4] * 10
    assert tally.num_bytes == 40


def test_every_probe_is_measured_and_a_language_never_learned_is_spelt_in_bytes(
    tokenizer: Tokenizer, corpus_of: CorpusOf
) -> None:
    probes = audit.audit(tokenizer, corpus_of([("text\n", "")], [("x", "")]), threads=1)["probes"]
    assert probes.keys() == PROBES.keys()
    assert all(item["bytes"] == len(PROBES[name].encode()) for name, item in probes.items())
    assert probes["Hindi"]["byte_fallback_rate"] > 0.9 > 0.05 > probes["English"]["byte_fallback_rate"]
