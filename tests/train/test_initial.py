"""A run that begins with another's weights: which ones, what records them, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import slm.tokenizer
import slm.train
from slm.core.artifact import Spec
from slm.core.errors import UserError
from slm.core.lineage import lineage
from slm.model.load import load_tensors
from slm.model.transformer import build
from slm.train import loop
from slm.train.config import OptimizerConfig
from slm.train.initial import starting_model

SHORT = {"tokens": 4 * 256, "evaluate_every_steps": 0}


@pytest.fixture(scope="module")
def base(make_recipe):
    """A finished run that publishes an average."""
    recipe = make_recipe("base", ema_decay=0.9, **SHORT)
    slm.train.run(recipe)
    return recipe


def begun(make_recipe, name, base, **changes):
    return make_recipe(name, initial=str(base.folder("train").parent), **{**SHORT, **changes})


def test_it_begins_with_the_published_weights_and_everything_else_anew(make_recipe, base, capsys):
    recipe = begun(make_recipe, "begun", base)
    run = loop.prepare(recipe, slm.train.specification(recipe))
    published = load_tensors(base.artifact("train").path)
    assert load_tensors(base.artifact("train").path, stem="weights").keys() == published.keys()
    assert all(torch.equal(tensor, published[name]) for name, tensor in run.state.model.state_dict().items())
    assert (run.state.step, run.state.tokens, run.state.loader.cursor.row) == (0, 0, 0)
    assert run.state.optimizer.state_tensors() == {}
    assert f"train: beginning with the weights of {base.folder('train').parent}" in capsys.readouterr().out


def test_the_parametrization_does_not_scale_weights_that_are_not_fresh(make_recipe, base):
    mup = OptimizerConfig(parametrization="mup", base_width=8)
    recipe = begun(make_recipe, "scaled", base)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"optimizer": mup})})
    spec = slm.train.specification(recipe)
    found, stored = starting_model(recipe, spec).state_dict(), load_tensors(base.artifact("train").path)
    assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())
    fresh = starting_model(recipe, Spec("train", recipe.train)).state_dict()
    assert not torch.equal(fresh["embedding.weight"], build(recipe.model, recipe.seed).embedding.weight)


def test_its_checkpoints_know_what_they_began_with_and_lineage_goes_through_it(make_recipe, base):
    recipe = begun(make_recipe, "descended", base)
    end, start = slm.train.run(recipe), base.artifact("train")
    assert end.manifest["parents"]["initial"]["fingerprint"] == start.fingerprint
    assert [found.path.name for depth, found in lineage(end.path) if depth == 1 and found.kind == "train"] == [
        start.path.name
    ]
    assert not torch.equal(load_tensors(end.path)["embedding.weight"], load_tensors(start.path)["embedding.weight"])


def test_it_goes_on_bit_for_bit_after_dying(make_recipe, base, train_dying_in, hashes, figures):
    recipe, broken = (begun(make_recipe, name, base, save_every_steps=2) for name in ("whole", "broken"))
    slm.train.run(recipe)
    train_dying_in(broken, 4)
    assert hashes(broken) == hashes(recipe)
    assert figures(broken) == figures(recipe)


def test_another_beginning_is_another_run(make_recipe, base):
    slm.train.run(begun(make_recipe, "twice", base))
    with pytest.raises(UserError, match=r"twice/train holds checkpoints of another recipe .*parents\.initial"):
        slm.train.run(make_recipe("twice", **SHORT))


def test_what_does_not_fit_is_refused_in_one_sentence(make_recipe, base, tmp_path):
    recipe = begun(make_recipe, "refused", base)

    def refused(pattern, **sections):
        with pytest.raises(UserError, match=pattern):
            slm.train.run(recipe.model_copy(update=sections))

    def beginning(where):
        return recipe.train.model_copy(update={"initial": str(where)})

    wider = recipe.model.model_copy(update={"ffn_width": 96, "rope_theta": 500.0, "max_seq_len": 128})
    refused(r"^train\.initial \(.+\) holds a model of another kind \(model\.ffn_width: 64 -> 96; model\.rope_theta: "
            r"10000\.0 -> 500\.0\); take over", model=wider)  # fmt: skip
    refused(r"^train\.initial \(.+/nothing\) cannot be begun with: there is no train in", train=beginning(
        tmp_path / "nothing"))  # fmt: skip
    refused(r"^train\.initial \(.+\) cannot be begun with: .+ holds a tokenizer, but a train is needed",
            train=beginning(recipe.folder("tokenizer")))  # fmt: skip
    own = base.folder("train").parent
    refused(r"^train\.initial \(.+\) is this run itself", train=beginning(own), run="base")
    other = tmp_path / "base"
    shutil.copytree(base.artifact("train").path, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["parents"]["tokenizer"]["fingerprint"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    refused(r"was changed after it was written", train=beginning(other))


def test_a_checkpoint_of_another_vocabulary_is_refused(make_recipe, base, tmp_path):
    recipe = begun(make_recipe, "vocabulary", base)
    changed = {"tokenizer": recipe.tokenizer.model_copy(update={"vocab_size": 390}), "runs_dir": str(tmp_path)}
    changed["artifacts"] = recipe.artifacts.model_copy(update={"tokenizer": ""})
    other = recipe.model_copy(update=changed)
    slm.tokenizer.run(other)
    with pytest.raises(UserError, match=r"was made from tokenizer .+; point artifacts\.tokenizer at the one"):
        slm.train.initial.initial_model(recipe, other.artifact("tokenizer"))
