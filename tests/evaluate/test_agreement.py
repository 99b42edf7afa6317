"""How near a model is to a teacher, against plain softmaxes; and as a figure of the evaluation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import slm.evaluate
from slm.core.errors import UserError
from slm.evaluate.agreement import agreement, summary
from slm.evaluate.measurements import AGREEMENT, DIVERGENCE, read_measurements
from slm.model.transformer import build
from tests.tiny_run import train

OPTIONS = {"context": 64, "stride": 32, "batch_tokens": 100, "precision": "fp32"}


def test_each_document_counts_by_whole_softmaxes(model) -> None:
    generator = np.random.default_rng(0)
    documents = [
        (f"d{n}", generator.integers(5, 330, size).astype(np.int32), None) for n, size in enumerate((40, 9, 60))
    ]
    wider = model.config.model_copy(update={"width": 48, "heads": 3, "kv_heads": 3})
    teacher = build(wider, seed=1).eval()
    found = agreement(model, teacher, documents, **OPTIONS)
    assert found["id"] == ["d0", "d1", "d2"]
    assert found["positions"] == [39, 8, 59]
    for number, (_, ids, _) in enumerate(documents):
        inputs = torch.from_numpy(ids[None, :-1].astype(np.int64))
        with torch.no_grad():
            log_q, log_p = (one(inputs)[0].double().log_softmax(-1) for one in (model, teacher))
        assert found["agreed"][number] == int((log_q.argmax(-1) == log_p.argmax(-1)).sum())
        distance = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")
        assert found["divergence_nats"][number] == pytest.approx(float(distance), rel=1e-4)
    mean = summary(found, 0)
    assert mean["agreement"] == pytest.approx(sum(found["agreed"]) / 106)
    assert mean["agreement_95"][0] <= mean["agreement"] <= mean["agreement_95"][1]
    assert (mean["documents"], mean["positions"]) == (3, 106)


def test_a_model_agrees_with_itself(model) -> None:
    documents = [("one", np.arange(5, 60, dtype=np.int32), None), ("two", np.arange(80, 110, dtype=np.int32), None)]
    found = summary(agreement(model, model, documents, **OPTIONS), 0)
    assert found["agreement"] == 1
    assert abs(found["divergence_nats"]) < 1e-6


def test_an_evaluation_that_names_a_teacher_has_both_figures(make_recipe, on_trained, capsys) -> None:
    other = train(make_recipe("longer", train={"tokens": 8 * 256}))
    made = slm.evaluate.run(on_trained("beside", evaluate={"teacher": str(other.folder("train").parent)}))
    results = json.loads(made.file("results.json").read_text())
    found = read_measurements(made)
    assert found[AGREEMENT].numerators_N.sum() / found[AGREEMENT].denominators_N.sum() == pytest.approx(
        results["teacher"]["agreement"]
    )
    assert not found[AGREEMENT].lower_is_better
    assert found[DIVERGENCE].lower_is_better
    assert made.manifest["parents"]["teacher"]["fingerprint"] == other.artifact("train").fingerprint
    assert "finds its teacher's likeliest token likeliest at " in capsys.readouterr().out


def test_a_teacher_of_other_words_is_refused(make_recipe, on_trained) -> None:
    other = train(make_recipe("stranger", tokenizer={"vocab_size": 340}, model={"vocab_size": 340}))
    with pytest.raises(UserError, match=r"\(train\) was made from tokenizer \w+, but .* is \w+; point artifacts\.tok"):
        slm.evaluate.run(on_trained("apart", evaluate={"teacher": str(other.folder("train").parent)}))
