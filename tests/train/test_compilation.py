"""Blocks through torch.compile: the same learning to rounding, the same bits after a stop, refusals in a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import library

import slm.train
from slm.core.artifact import file_sha256
from slm.core.errors import ProblemsError, Stopped, UserError
from slm.model.backends import Choice
from slm.model.block import Block, set_compiled, set_recompute
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.recipe import build_recipe
from slm.train import compilation, loop
from slm.train.ledger import read_ledger
from slm.train.metrics import read_metrics

HAS_COMPILER = shutil.which("g++") is not None and Path(sysconfig.get_path("include"), "Python.h").is_file()
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own insides


@pytest.fixture(scope="module")
def code_cache(tmp_path_factory):
    """torch's cache of compiled code in a folder of its own, so that the first test compiles and the others do not."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        torch._dynamo.reset()
        yield
    torch._dynamo.reset()


def losses(recipe):
    return [row["loss"] for row in read_metrics(recipe.folder("train") / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs g++ and Python.h")
@pytest.mark.usefixtures("code_cache")
def test_a_compiled_run_learns_the_same_and_goes_on_bit_for_bit(make_recipe, monkeypatch, capsys):
    eager, compiled = make_recipe("eager", tokens=1536), make_recipe("compiled", tokens=1536, compile=True)
    slm.train.run(eager)
    slm.train.run(compiled)
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-5)
    assert losses(compiled) != losses(eager), "nothing was compiled"
    assert "train: blocks compiled in " in capsys.readouterr().out
    (account,) = read_ledger(compiled.folder("train"))
    assert account["phases"]["compile"] > account["phases"]["compute"]

    # A signal that comes while torch compiles: the run leaves when that is over, to be started again.
    stopped = make_recipe("stopped", tokens=1536, compile=True)
    original = compilation.forward_backward

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        original(*given)

    with monkeypatch.context() as patched:
        patched.setattr(compilation, "forward_backward", interrupted)
        with pytest.raises(Stopped, match="SIGTERM"):
            slm.train.run(stopped)
    assert not list(stopped.folder("train").glob("step-*"))
    with monkeypatch.context() as patched:  # and one after the second step, where a checkpoint is written
        patched.setattr(loop, "lr_share", lambda *given: os.kill(os.getpid(), signal.SIGTERM) or share(*given))
        share = slm.train.schedule.lr_share
        with pytest.raises(Stopped, match="SIGTERM"):
            slm.train.run(stopped)
    torch._dynamo.reset()  # what a new process would begin with
    slm.train.run(stopped)
    assert losses(stopped) == losses(compiled)
    ends = [one.artifact("train").path for one in (stopped, compiled)]
    for name in ("model-00001-of-00001.safetensors", "optimizer.safetensors"):
        assert file_sha256(ends[0] / name) == file_sha256(ends[1] / name)


@pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs g++ and Python.h")
@pytest.mark.usefixtures("code_cache")
def test_a_machine_without_a_compiler_is_told_so_in_a_sentence(make_recipe, monkeypatch, tmp_path):
    import torch._inductor.config
    from torch._inductor import cpp_builder

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    cpp_builder.cpp_compiler_search.cache_clear()
    torch._dynamo.reset()
    recipe = make_recipe("uncompiled", tokens=512, compile=True)
    with pytest.raises(
        UserError, match=r"^train.compile is true, but torch cannot compile the blocks here \(.+\); ins"
    ):
        slm.train.run(recipe)
    cpp_builder.cpp_compiler_search.cache_clear()


SHAPE = {"width": 32, "layers": 3, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 64}
TOKENS_BT = torch.arange(32).view(2, 16)


@pytest.fixture
def counted(monkeypatch):
    """Counts what would be compiled; blocks run the traced operations without a compiler."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(Block._layer, dynamic=False, backend=counter)
    monkeypatch.setattr("slm.model.block._compiled_layer", lambda: compiled)
    yield counter
    torch._dynamo.reset()


def gradients(model, documents):
    model.zero_grad()
    model(TOKENS_BT, documents_BT=(torch.arange(16) * documents // 16).expand(2, 16)).square().mean().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_one_compiled_function_serves_all_blocks_and_any_documents_and_recomputation(counted):
    model = build(ModelConfig(vocab_size=64, **SHAPE), 0)
    expected = [gradients(model, documents) for documents in (2, 3, 5)]
    set_compiled(model)
    assert all(block.as_written for block in model.blocks)
    for recompute in ("none", "full"):
        set_recompute(model, recompute)
        for documents, plain in zip((2, 3, 5), expected, strict=True):
            torch.testing.assert_close(gradients(model, documents), plain, atol=1e-6, rtol=1e-4)
        assert counted.frame_count == 1
    with torch.no_grad():
        model(TOKENS_BT[:1])
    assert counted.frame_count == 1, "without gradients blocks run as they are"


@library.custom_op("slm_tests::varlen", mutates_args=())
def opaque(q: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """A kernel into which torch cannot look, as the real one."""
    return q * cu_seqlens.numel()


opaque.register_fake(lambda q, _: torch.empty_like(q))


def test_the_number_of_documents_is_no_reason_to_compile_again(counted, monkeypatch):
    monkeypatch.setattr("slm.model.attention.choose", lambda *_, **__: Choice("varlen", "made to"))
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda q, _k, _v, cu, *_, **__: opaque(q, cu))
    model = build(ModelConfig(vocab_size=64, **SHAPE), 0)
    set_compiled(model)
    for documents in (2, 3, 5, 7):
        model(TOKENS_BT, documents_BT=(torch.arange(16) * documents // 16).expand(2, 16))
    assert counted.frame_count == 1


def test_compile_is_part_of_the_recipe_and_goes_with_full_recomputation_only(make_recipe):
    keys = {slm.train.specification(make_recipe("key", compile=compiled)).key for compiled in (False, True)}
    assert len(keys) == 2
    build_recipe({"train": {"compile": True, "activation_checkpointing": "full"}})
    with pytest.raises(
        ProblemsError, match=r"activation_checkpointing \(selective\) has no effect with compile, which"
    ):
        build_recipe({"train": {"compile": True, "activation_checkpointing": "selective"}})
    with pytest.raises(ProblemsError, match=r"dropout.rate \(0.1\) cannot be compiled, for its masks .+; set it to 0"):
        build_recipe({"train": {"compile": True, "dropout": {"rate": 0.1}}})
