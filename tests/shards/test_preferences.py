"""Preferences in shards: pairs in neighbouring rows under one number, samples of two rows, what is too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm.core.batch import IGNORED, Batch
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.corpus import run as make_corpus
from slm.corpus.conversations import LABEL, messages_of, rejected_of
from slm.recipe import Recipe, build_recipe
from slm.shards import run as make_shards
from slm.shards.loader import Loader, read_batch
from slm.shards.preferences import interleave, pack_sides
from slm.shards.reader import ShardReader
from slm.tokenizer import Tokenizer
from slm.tokenizer import run as make_tokenizer
from tests.preferences import labelled, pair, preference_shards
from tests.tiny_run import tiny_recipe, write_source


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer in runs/data."""
    base = tmp_path_factory.mktemp("preferences")
    text = [" ".join(str(pair(number + other)) for other in range(4)) for number in range(60)]
    size = {"vocab_size": 400}
    recipe = tiny_recipe(base, [write_source(base, "text", text)], "data", tokenizer=size, model=size)
    make_corpus(recipe)
    make_tokenizer(recipe)
    return base


@pytest.fixture(scope="module")
def pairs(base: Path) -> Recipe:
    return preference_shards(base, "pairs", [pair(number) for number in range(64)], "pairs")


@pytest.fixture(scope="module")
def labels(base: Path) -> Recipe:
    return preference_shards(base, "labelled", [row for n in range(64) for row in labelled(n)], "labelled")


def documents_of(batch: Batch, row: int) -> list[tuple[list[int], list[int]]]:
    """The ids of each document of a row, and which of them are learned."""
    found = []
    for number in range(int(batch.documents_BT[row].max()) + 1):
        mine = batch.documents_BT[row] == number
        assert batch.positions_BT[row][mine].tolist() == list(range(int(mine.sum())))
        targets = batch.targets_BT[row][mine]
        found.append((batch.tokens_BT[row][mine].tolist(), targets[targets != IGNORED].tolist()))
    return found


def test_documents_of_one_number_in_both_rows_are_a_pair(pairs: Recipe) -> None:
    shards, corpus = pairs.artifact("shards"), pairs.artifact("corpus")
    tokenizer, reader = Tokenizer.load(pairs.artifact("tokenizer").path), ShardReader(shards, "train")
    batch = read_batch(reader, range(reader.num_rows))
    found = []
    for row in range(0, reader.num_rows, 2):
        both = documents_of(batch, row), documents_of(batch, row + 1)
        assert reader.documents(row) == reader.documents(row + 1)
        found += list(zip(reader.documents(row), *both, strict=True))
    assert batch.num_preferences == len(found) == corpus.counts["train"]["documents"]
    known = {document.id: document for document in read_documents(corpus, "train")}
    assert sorted(known) == sorted(name for name, *_ in found)
    for name, *sides in found:
        told = (messages_of(known[name]), rejected_of(known[name]))
        for (ids, learned), messages in zip(sides, told, strict=True):
            expected, _ = tokenizer.encode_chat([message._asdict() for message in messages])
            assert ids == expected.tolist()
            assert messages[-1].content.endswith(tokenizer.decode(learned).replace("<|im_end|>", "").strip())
    assert shards.counts["answers"]["whole"] == len(known) + corpus.counts["validation"]["documents"]


def test_only_the_last_answer_is_learned(base: Path) -> None:
    turns = [{"role": role, "content": "speaks"} for role in ("user", "assistant", "user")]
    rows = [
        {"prompt": turns, "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(16)
    ]  # fmt: skip
    recipe = preference_shards(base, "turns", rows, "pairs")
    tokenizer, reader = (
        Tokenizer.load(recipe.artifact("tokenizer").path),
        ShardReader(recipe.artifact("shards"), "train"),
    )
    batch = read_batch(reader, range(reader.num_rows))
    told = tokenizer.decode(batch.targets_BT[batch.targets_BT != IGNORED].tolist())
    assert "speaks" not in told
    assert "yes" in told
    assert "no" in told


def test_wanted_and_unwanted_answers_have_rows_of_their_own(labels: Recipe) -> None:
    reader, corpus = ShardReader(labels.artifact("shards"), "train"), labels.artifact("corpus")
    kinds: dict[int, set[str]] = {0: set(), 1: set()}
    for row in range(reader.num_rows):
        kinds[row % 2].update(reader.documents(row))
    expected = {"wanted": set[str](), "unwanted": set[str]()}
    for document in read_documents(corpus, "train"):
        expected[document.metadata[LABEL]].add(document.id)
    assert kinds == {0: expected["wanted"], 1: expected["unwanted"]}
    batch = read_batch(reader, range(reader.num_rows))
    assert batch.num_preferences == corpus.counts["train"]["documents"]


def test_packing_keeps_pairs_together_and_fits_the_longer_side() -> None:
    lengths = np.array([5, 9, 4, 2, 7, 7, 3, 6], dtype=np.int64)
    chosen, rejected = pack_sides(lengths, np.array([0, 1] * 4, np.int8), 16, "pairs")
    assert (rejected.document_P == chosen.document_P + 1).all()
    assert (rejected.row_P == chosen.row_P).all()
    both = interleave([chosen, rejected])
    assert both.num_rows == 2 * chosen.num_rows
    assert sorted(both.document_P) == list(range(8))
    assert np.bincount(both.row_P, weights=both.length_P).max() <= 16
    assert both.length_P.tolist() == lengths[both.document_P].tolist()


def test_a_kind_that_needs_fewer_rows_leaves_the_last_ones_empty() -> None:
    lengths, sides = np.array([9, 9, 9, 2], dtype=np.int64), np.array([0, 0, 0, 1], np.int8)
    both = interleave(pack_sides(lengths, sides, 16, "labels"))
    assert both.num_rows == 6
    assert np.bincount(both.row_P, minlength=6).tolist() == [1, 1, 1, 0, 1, 0]
    alone = interleave(pack_sides(lengths[:3], sides[:3], 16, "labels"))
    assert np.bincount(alone.row_P, minlength=6).tolist() == [1, 0, 1, 0, 1, 0]


def loader(recipe: Recipe, **settings: Any) -> Loader:
    return Loader(recipe.artifact("shards"), **{"batch_rows": 4, "micro_batch_rows": 2, "seed": 3, **settings})


def test_a_sample_is_two_rows_and_every_pair_comes_once_an_epoch(pairs: Recipe) -> None:
    one, rows = loader(pairs, batch_rows=2), []
    for _ in range(one.reader.num_rows // 2):
        (batch,) = one.step()
        assert batch.rows_B is not None
        rows += batch.rows_B.tolist()
        assert batch.num_preferences == int(batch.documents_BT[0].max()) + 1
    assert sorted(rows) == list(range(one.reader.num_rows))
    assert rows != sorted(rows)
    assert all(first % 2 == 0 and second == first + 1 for first, second in zip(rows[::2], rows[1::2], strict=True))
    assert (one.cursor.epoch, one.cursor.row) == (1, one.reader.num_rows)


def test_ranks_resuming_and_micro_batches_do_not_change_what_a_step_reads(pairs: Recipe) -> None:
    whole = loader(pairs, micro_batch_rows=4)
    steps = [whole.step()[0] for _ in range(5)]
    split = [loader(pairs, rank=rank, world_size=2) for rank in (0, 1)]
    for number, step in enumerate(steps):
        assert step.rows_B is not None
        if number == 2:
            states = [one.state_dict() for one in split]
            split = [loader(pairs, rank=rank, world_size=2) for rank in (0, 1)]
            for one, state in zip(split, states, strict=True):
                one.load_state_dict(state)
        parts = [one.step()[0] for one in split]
        assert [row for part in parts for row in part.rows_B.tolist()] == step.rows_B.tolist()  # type: ignore[union-attr]
        assert sum(part.num_preferences for part in parts) == step.num_preferences
        assert whole.rows_at(4 * number, 4) == step.rows_B.tolist()


def test_mixtures_take_pairs_whole(base: Path) -> None:
    rows = [pair(number) for number in range(40)]
    first = preference_shards(base, "mixed", rows, "pairs")
    more = preference_shards(base, "more", [pair(number) for number in range(40, 64)], "pairs")
    kept = {"one": first, "two": more}
    sources = [{**recipe.corpus.sources[0].model_dump(), "name": name} for name, recipe in kept.items()]
    weights = [{"source": "one", "weight": 3}, {"source": "two", "weight": 1}]
    values = first.model_dump()
    values["run"] = "mixed2"
    values["corpus"]["sources"] = sources
    values["shards"]["mixture"] = [{"sources": weights}]
    recipe = build_recipe(values)
    make_corpus(recipe)
    make_shards(recipe)
    one = loader(recipe, batch_rows=64, micro_batch_rows=64)
    (batch,) = one.step()
    assert batch.sources_B is not None
    assert batch.sources_B.bincount().tolist() == [48, 16]
    assert (batch.sources_B[0::2] == batch.sources_B[1::2]).all()
    one.reweigh({"one": 1, "two": 1})
    (batch,) = one.step()
    assert batch.sources_B is not None
    assert batch.sources_B.bincount().tolist() == [32, 32]
    assert batch.rows_B is not None
    assert one.rows_at(64, 64) == batch.rows_B.tolist()


def test_what_is_too_long_is_cut_or_left_out_and_counted(base: Path) -> None:
    long, longer = "while " * 60, "class " * 80
    rows = [
        *(pair(number) for number in range(24)),
        {"prompt": longer, "chosen": "yes", "rejected": "no"},
        *({"prompt": f"{n} def", "chosen": f"yes {long}", "rejected": "no"} for n in range(3)),
        {"prompt": "equal?", "chosen": long, "rejected": f"{long} and more"},
    ]
    counts = preference_shards(base, "long", rows, "pairs").artifact("shards").counts["answers"]
    assert counts == {"whole": 24, "cut": 3, "prompt longer than the row": 1, "equal when cut": 1}


def test_a_source_of_which_no_pair_fits_is_refused_and_not_lost_among_others(base: Path) -> None:
    long = [{"prompt": "class " * 80 + str(n), "chosen": "yes", "rejected": "no"} for n in range(12)]
    (base / "endless.jsonl").write_text("".join(json.dumps(row) + "\n" for row in long))
    other = {"kind": "jsonl", "name": "endless", "path": str(base / "endless.jsonl"), "conversations": "pairs"}
    rows = [pair(number) for number in range(24)]
    with pytest.raises(UserError, match=r"no endless train preference fits into rows of 64 tokens \(24 whole, 12 pr"):
        preference_shards(base, "both", rows, "pairs", others=[{**other, "licence": "CC0-1.0", "origin": "made up"}])


def test_shards_without_a_pair_are_refused(base: Path) -> None:
    rows = [{"prompt": "class " * 80 + str(n), "chosen": "yes", "rejected": "no"} for n in range(12)]
    with pytest.raises(UserError, match=r"no train preference fits into rows of 64 tokens \(12 prompt longer.*raise"):
        preference_shards(base, "none", rows, "pairs")
