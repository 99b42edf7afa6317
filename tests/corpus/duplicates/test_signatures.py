from __future__ import annotations

from pathlib import Path

import numpy as np

from slm.corpus.document import Document
from slm.corpus.duplicates import signatures
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.signatures import FILE, Signer, identity
from slm.corpus.duplicates.sketch import Scheme, Sketcher, read_sketches


def test_a_unit_is_signed_as_all_at_once(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    config = DuplicatesConfig()
    scheme = Scheme.of(config)
    documents = [Document(f"text number {n} " * (n % 7), f"s/{n}", "s", "l", "o") for n in range(50)]
    expected = Sketcher(scheme).sketch([d.id for d in documents], [d.text for d in documents])
    for documents_at_once, characters in ((256, 1 << 20), (8, 1 << 20), (256, 100)):
        monkeypatch.setattr(signatures, "BATCH_DOCUMENTS", documents_at_once)
        monkeypatch.setattr(signatures, "BATCH_CHARACTERS", characters)
        signer = Signer(config)
        for document in documents:
            signer.add(document)
        signer.write(tmp_path)
        found = list(read_sketches(tmp_path / FILE, scheme, 50))
        for name, values in expected._asdict().items():
            assert (np.concatenate([getattr(batch, name) for batch in found]) == values).all()


def test_a_unit_without_documents_has_a_file_without_sketches(tmp_path: Path) -> None:
    Signer(DuplicatesConfig()).write(tmp_path)
    assert list(read_sketches(tmp_path / FILE, Scheme.of(DuplicatesConfig()), 0)) == []


def test_nothing_is_signed_where_nothing_is_looked_for(tmp_path: Path) -> None:
    config = DuplicatesConfig(exact=False, near=False)
    signer = Signer(config)
    signer.add(Document("text", "id", "s", "l", "o"))
    signer.write(tmp_path)
    assert not list(tmp_path.iterdir())
    assert identity(config) == {}


def test_the_identity_changes_with_whatever_shapes_a_sketch_and_not_with_the_threshold() -> None:
    identities = [
        identity(config)
        for config in (
            DuplicatesConfig(), DuplicatesConfig(near=False), DuplicatesConfig(shingle_words=4),
            DuplicatesConfig(threshold=0.7), DuplicatesConfig(bands=10, rows=5),
        )
    ]  # fmt: skip
    assert len({str(one) for one in identities}) == 5
    assert identity(DuplicatesConfig(threshold=0.85)) == identities[0]
