"""Preference accuracy on held-out pairs: the rows of a task, from what the model says of each answer by itself."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch

import slm.evaluate
from slm.corpus import read_documents
from slm.corpus.conversations import messages_of, rejected_of
from slm.evaluate.measurements import read_measurements
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.tokenizer import Tokenizer
from tests.preferences import pair, preference_shards
from tests.tiny_run import tiny_recipe, train, write_source


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny model of another text that was asked about held-out pairs."""
    base = tmp_path_factory.mktemp("preference")
    text = [" ".join(str(pair(number + other)) for other in range(4)) for number in range(60)]
    size = {"vocab_size": 400}
    data = train(tiny_recipe(base, [write_source(base, "text", text)], "data", tokenizer=size, model=size))
    pairs = preference_shards(base, "pairs", [pair(number) for number in range(40)], "pairs")
    artifacts = {"train": str(data.folder("train")), "corpus": str(pairs.folder("corpus"))}
    recipe = data.model_copy(
        update={"run": "asked", "artifacts": data.artifacts.model_copy(update=artifacts), "shards": pairs.shards}
    )
    slm.evaluate.run(recipe)
    return recipe


def test_accuracy_is_by_the_likelihood_of_each_answer_after_the_prompt(evaluated: Recipe) -> None:
    folder = evaluated.folder("evaluate")
    rows = {row["item"]: row for row in pq.read_table(folder / "items.parquet").to_pylist() if row["metric"] == "acc"}
    corpus, tokenizer = evaluated.artifact("corpus"), Tokenizer.load(evaluated.artifact("tokenizer").path)
    model = load_model(evaluated.artifact("train").path)
    documents = list(read_documents(corpus, "validation"))
    assert rows.keys() == {document.id for document in documents}
    for document in documents:
        row = rows[document.id]
        for messages, found in zip((messages_of(document), rejected_of(document)), row["choice_logprobs"], strict=True):
            ids, learned = tokenizer.encode_chat([message._asdict() for message in messages])
            ids_T = torch.from_numpy(ids).long()
            with torch.no_grad():
                log_probs = model(ids_T[None, :-1])[0].log_softmax(-1)
            each = log_probs.gather(1, ids_T[1:, None])[:, 0]
            assert found == pytest.approx(float(each[torch.from_numpy(learned[1:])].sum()), abs=1e-3)
        assert row["value"] == float(row["choice_logprobs"][0] >= row["choice_logprobs"][1])
        assert row["chance"] == 0.5


def test_two_models_can_be_compared_pair_by_pair(evaluated: Recipe) -> None:
    found = read_measurements(evaluated.artifact("evaluate"))["preference: acc"]
    assert len(found.keys_N) == len(list(read_documents(evaluated.artifact("corpus"), "validation")))
    assert not found.lower_is_better
