"""Conversations in shards: which tokens are targets, rows that cut nothing, and rules for what is too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm.compose import load_recipe
from slm.core.artifact import Artifact, open_artifact
from slm.core.batch import IGNORED
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.corpus import run as make_corpus
from slm.corpus.conversations import messages_of
from slm.evaluate.baselines import count_targets
from slm.shards import run as make_shards
from slm.shards.loader import Loader, read_batch
from slm.shards.reader import ShardReader
from slm.shards.units import plan
from slm.tokenizer import Tokenizer
from slm.tokenizer import run as make_tokenizer

NAMES = "alder birch cedar dogwood elm fir gum hazel ivy juniper kapok larch maple nutmeg oak pine"
TREES = NAMES.split(" ")


def talk(number: int, turns: int) -> dict[str, Any]:
    said = [
        message
        for turn in range(turns)
        for message in (
            {"role": "user", "content": f"What of {TREES[(number + turn) % 16]} number {number}, again?"},
            {"role": "assistant", "content": f"It stands {turn} by the {TREES[number % 16]} <|im_end|> and says é."},
        )
    ]
    return {"messages": [{"role": "system", "content": "Be brief."}, *said]}


def made(tmp_path: Path, rows: list[Any], *words: str) -> tuple[Artifact, Artifact, Tokenizer]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = f"{{kind: jsonl, path: {tmp_path}/rows.jsonl, conversations: openai, licence: MIT}}"
    sizes = ("tokenizer.vocab_size=384", "model.vocab_size=384", "shards.seq_len=128", "train.batch_tokens=512")
    recipe = load_recipe(
        "recipe=smoke", f"runs_dir={tmp_path}/runs", f"corpus.sources=[{kind}]", "corpus.validation_fraction=0.2",
        "corpus.duplicates.near=false", "train.micro_batch_rows=2", *sizes, *words,
    )  # fmt: skip
    corpus = make_corpus(recipe)
    make_tokenizer(recipe)
    shards = make_shards(recipe)
    assert corpus is not None
    assert shards is not None
    return corpus, shards, Tokenizer.load(recipe.folder("tokenizer"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact, Tokenizer]:
    return made(tmp_path_factory.mktemp("short"), [talk(number, 1) for number in range(40)])


def test_targets_are_the_answers_and_the_ends_of_their_turns(short: tuple[Artifact, Artifact, Tokenizer]) -> None:
    corpus, shards, tokenizer = short
    reader = ShardReader(shards, "train")
    batch = read_batch(reader, range(reader.num_rows))
    learned = batch.targets_BT[batch.targets_BT != IGNORED].tolist()
    wanted = sorted(messages_of(document)[-1].content for document in read_documents(corpus, "train"))
    assert sorted(filter(None, tokenizer.decode_bytes(_with_ends(learned)).decode().split("\0"))) == wanted
    assert batch.num_targets == len(learned) == shards.counts["train"]["targets"]
    assert shards.counts["train"]["bytes"] == sum(len(text.encode()) for text in wanted)
    assert count_targets(reader).sum() == batch.num_targets
    for row in range(reader.num_rows):
        starts = batch.positions_BT[row] == 0
        assert bool((batch.tokens_BT[row][starts & (batch.documents_BT[row] >= 0)] == tokenizer.bos_id).all())


def _with_ends(ids: list[int]) -> list[int]:
    """Ids with the end of a turn as the byte 0, which no answer holds."""
    return [FIRST_BYTE if token == END else token for token in ids]


END, FIRST_BYTE = 5, 6


def test_no_conversation_is_cut_to_fill_a_row(short: tuple[Artifact, Artifact, Tokenizer]) -> None:
    _, shards, _ = short
    assert shards.counts["train"]["split_documents"] == shards.counts["train"]["fragments"] == 0
    assert shards.counts["conversations"] == {"whole": 40, "cut": 0, "left_out": 0}


def test_text_beside_conversations_is_packed_as_it_would_be_alone(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"{number} " * 90}) + "\n" for number in range(100, 160))
    (tmp_path / "text.jsonl").write_text(lines)
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(talk(number, 1)) + "\n" for number in range(40)))
    of_text = f"{{kind: jsonl, name: text, path: {tmp_path}/text.jsonl, licence: MIT}}"
    of_talk = f"{{kind: jsonl, name: talk, path: {tmp_path}/talk.jsonl, conversations: openai, licence: MIT}}"
    _, shards, _ = made(tmp_path, [], f"corpus.sources=[{of_text},{of_talk}]", "shards.packing=concat")
    text, talks = (shards.counts["sources"][name] for name in ("text", "talk"))
    assert text["padding"] < 128 < text["split_documents"] * 128
    assert talks["split_documents"] == talks["fragments"] == 0


def test_the_loader_gives_the_same_targets_in_micro_batches(short: tuple[Artifact, Artifact, Tokenizer]) -> None:
    _, shards, _ = short
    loader = Loader(shards, batch_rows=4, micro_batch_rows=2, seed=1)
    batches = loader.step()
    rows = loader.rows_at(0, 4)
    whole = read_batch(loader.reader, rows)
    assert [batch.num_targets for batch in batches] == [
        int((part != IGNORED).sum()) for part in whole.targets_BT.split(2)
    ]
    assert (np.concatenate([batch.targets_BT.numpy() for batch in batches]) == whole.targets_BT.numpy()).all()


def test_where_no_answer_fits_a_sentence_says_so(tmp_path: Path) -> None:
    endless = [talk(number, 1) for number in range(20)]
    for conversation in endless:
        conversation["messages"][1]["content"] *= 20
    with pytest.raises(UserError, match=r"no conversation of .* has an answer that fits into \d+ tokens; raise shards"):
        made(tmp_path, endless)
    assert not (tmp_path / "runs" / "smoke" / "shards").exists()


def test_a_source_of_which_nothing_fits_is_refused_and_not_lost_among_others(tmp_path: Path) -> None:
    endless = [talk(number, 1) for number in range(20)]
    for conversation in endless:
        conversation["messages"][1]["content"] *= 20
    (tmp_path / "endless.jsonl").write_text("".join(json.dumps(row) + "\n" for row in endless))
    kinds = [
        f"{{kind: jsonl, name: {name}, path: {tmp_path}/{name}.jsonl, conversations: openai, licence: MIT}}"
        for name in ("rows", "endless")
    ]
    rows = [talk(number, 1) for number in range(20, 60)]
    with pytest.raises(UserError, match="no conversation of endless has an answer that fits into 128 tokens; raise sh"):
        made(tmp_path, rows, f"corpus.sources=[{', '.join(kinds)}]")


def test_long_ones_end_after_the_last_answer_that_fits(tmp_path: Path) -> None:
    endless = talk(99, 1)
    endless["messages"][1]["content"] *= 20
    _, shards, tokenizer = made(tmp_path, [*(talk(number, 6) for number in range(30)), endless])
    counts = shards.counts["conversations"]
    assert counts["cut"] == 30
    assert counts["left_out"] == 1
    batch = read_batch(ShardReader(shards, "train"), range(shards.counts["train"]["rows"]))
    for row in range(len(batch.tokens_BT)):
        own = batch.tokens_BT[row][batch.documents_BT[row] >= 0]
        assert int(own[-1]) == END
        assert tokenizer.decode(own.tolist()).endswith("é.")


def test_a_changed_template_makes_the_shards_anew(short: tuple[Artifact, Artifact, Tokenizer]) -> None:
    corpus, shards, _ = short
    tokenizer = open_artifact(shards.path.parent / "tokenizer", "tokenizer")
    keys = [unit.key for unit in plan(corpus, tokenizer, 1 << 20)]
    template = tokenizer.path / "chat_template.jinja"
    before = template.read_text()
    try:
        template.write_text(before.replace("\\n", " "))
        assert not set(keys) & {unit.key for unit in plan(corpus, tokenizer, 1 << 20)}
    finally:
        template.write_text(before)
