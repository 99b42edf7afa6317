import json
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf as gguf_library
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from slm.core.errors import DamagedError, UserError
from slm.export import gguf, parity
from slm.export.config import ExportConfig, Format
from slm.export.parity import Parity, Reference, prove
from slm.export.subject import Quantity, Subject
from slm.tokenizer.tokenizer import Tokenizer

SubjectOf = Callable[..., Subject]
PROMPTS = ("def main():\n", "import os\n    ")
SHAPES: dict[str, dict[str, object]] = {
    "llama, grouped queries, tied": {},
    "llama, untied, every head its own, wide heads": {"tie_embeddings": False, "kv_heads": 4, "head_dim": 32},
    "qwen3, untied": {"qk_norm": True, "tie_embeddings": False, "kv_heads": 1},
    "llama, llama3 positions": {"rope_scaling": {"kind": "llama3", "factor": 8, "original_max_seq_len": 16}},
    "qwen3, linear positions": {"qk_norm": True, "rope_scaling": {"kind": "linear", "factor": 3}, "rope_theta": 5e5},
}


def proof(
    subject: Subject, folder: Path, name: Format, config: ExportConfig, prompts: Sequence[str] = PROMPTS
) -> Parity:
    reference = Reference(subject, config, prompts)
    written = gguf.write(subject, folder, name).path
    with gguf.engine(written, end_ids=subject.end_ids, context_tokens=reference.context_tokens, threads=1) as engine:
        return prove(reference, engine, config, name, written.stat().st_size)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_llama_cpp_computes_the_same_as_the_model_from_an_f32_file(
    shape: str, subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig
) -> None:
    found = proof(subject_of(**SHAPES[shape]), tmp_path, "gguf_f32", export_config)
    assert 0 < found.max_delta <= 1e-4
    assert (found.greedy_equal + found.greedy_ties, found.greedy_compared) == (2, 2)
    assert found.top1_agreement == 1
    assert 0 <= found.mean_kl < 1e-9
    assert found.positions == sum(1 + len(ids) for ids in map(subject_of().tokenizer.encode, PROMPTS)) + 8


def test_coarser_files_differ_more_and_say_so(
    subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig
) -> None:
    names: tuple[Format, ...] = ("gguf_f16", "gguf_bf16", "gguf_q8_0")
    found = [proof(subject_of(), tmp_path, name, export_config) for name in names]
    assert 1e-5 < found[0].max_delta < found[1].max_delta < found[2].max_delta
    assert all(item.max_delta < item.max_delta_vocabulary for item in found)
    assert {item.quantity for item in found} == {"log-probabilities, tokens of the text"}
    assert 0 < found[0].mean_kl < found[1].mean_kl < found[2].mean_kl
    assert json.loads(json.dumps(found[2].as_dict()))["budget"] == export_config.max_logprob_delta_q8_0


def test_rows_of_q_and_k_in_the_wrong_order_are_caught(
    subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unchanged(weight: Tensor, _: int) -> Tensor:
        return weight

    monkeypatch.setattr(gguf, "interleave", unchanged)
    with pytest.raises(
        UserError, match=r"gguf_f32 failed its proof: largest \|difference\| [\d.]+ \(log-probabilities, whole"
    ):
        proof(subject_of(), tmp_path, "gguf_f32", export_config)


def test_a_wrong_rotary_base_is_caught(
    subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = gguf_library.GGUFWriter.add_rope_freq_base
    monkeypatch.setattr(gguf_library.GGUFWriter, "add_rope_freq_base", lambda self, base: write(self, base * 1.01))
    with pytest.raises(UserError, match=r"above export\.max_logprob_delta_f32 \(0\.0001\); nothing was published"):
        proof(subject_of(), tmp_path, "gguf_f32", export_config)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("add_add_space_prefix", lambda _: True),
        ("add_add_bos_token", lambda _: False),
        ("add_token_scores", lambda scores: [-score for score in scores]),
    ],
)
def test_a_tokenizer_that_cuts_otherwise_is_caught(
    method: str,
    wrong: Callable[[object], object],
    subject_of: SubjectOf,
    tmp_path: Path,
    export_config: ExportConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = getattr(gguf_library.GGUFWriter, method)
    monkeypatch.setattr(gguf_library.GGUFWriter, method, lambda self, value: write(self, wrong(value)))
    with pytest.raises(DamagedError, match=r"gguf_f32 failed its proof: .* becomes the ids .* there, .* here"):
        proof(subject_of(), tmp_path, "gguf_f32", export_config)


def test_llama_cpp_takes_u2581_for_a_space_and_its_ids_are_left_out_with_a_notice(
    subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig
) -> None:
    text = "a\u2581b"
    subject = subject_of()
    found = proof(subject, tmp_path, "gguf_f32", export_config, [*PROMPTS, text])
    assert found.notices == [
        "gguf_f32: 'a▁b' holds '▁', which its engine reads as something else; its ids were not compared"
    ]
    with gguf.engine(tmp_path / "model-f32.gguf", end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        assert engine.tokenize(text) == engine.tokenize("a b") == subject.tokenizer.encode("a b", bos=True)
    assert subject.tokenizer.decode(subject.tokenizer.encode(text)) == text


class Echo:
    """An engine that answers what the model says, with errors of the test's choosing."""

    quantity: Quantity = "log-probabilities"
    misread = ""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.noise = 0.0
        self.answers: list[list[int]] = [case.continuation for case in reference.cases]

    def tokenize(self, text: str) -> list[int]:
        return self.reference.subject.tokenizer.encode(text, bos=True)

    def scores(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        case = next(case for case in self.reference.cases if case.ids == list(ids))
        assert case.positions == list(positions)
        scores_PV = parity.log_softmax(case.logits_PV)
        scores_PV[-1, 3] += self.noise
        return scores_PV

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        del max_tokens
        return next(
            answer
            for case, answer in zip(self.reference.cases, self.answers, strict=True)
            if case.ids == list(ids) and case.continuation
        )


@pytest.fixture(scope="module")
def reference(subject_of: SubjectOf, export_config: ExportConfig) -> Reference:
    return Reference(subject_of(), export_config, PROMPTS)


def test_an_engine_that_answers_alike_passes_with_nothing_to_report(
    reference: Reference, export_config: ExportConfig
) -> None:
    found = prove(reference, Echo(reference), export_config, "gguf_f32", 10)
    assert (found.max_delta, found.top1_agreement, found.greedy_equal) == (0, 1, 2)
    assert found.mean_kl == pytest.approx(0, abs=1e-15)
    assert (found.greedy_ties, found.notices, found.size_bytes) == (0, [], 10)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (
            2e-4,
            r"0\.0002 \(log-probabilities, whole vocabulary\) at token \d+ of '.*', above export\.max_logprob_delta_f",
        ),
        (float("nan"), "NaN or infinity among its log-probabilities for 'def main"),
        (float("inf"), "NaN or infinity among its log-probabilities for 'def main"),
    ],
)
def test_a_difference_above_the_budget_and_nan_fail(
    noise: float, message: str, reference: Reference, export_config: ExportConfig
) -> None:
    engine = Echo(reference)
    engine.noise = noise
    with pytest.raises(UserError, match=f"gguf_f32 failed its proof: .*{message}"):
        prove(reference, engine, export_config, "gguf_f32", 10)


def test_coarse_formats_are_held_to_the_next_token_of_the_text_and_to_the_likeliest(
    reference: Reference, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = reference.cases[0]
    likeliest, follower = int(case.logits_PV[1].argmax()), case.ids[2]
    other = next(token for token in range(448) if token not in (likeliest, follower))
    original = Echo.scores
    for token, noise, expected in ((other, 0.3, 0.0), (follower, -0.01, 0.01), (likeliest, 0.015, 0.015)):

        def moved(
            engine: Echo, ids: Sequence[int], positions: Sequence[int], token: int = token, noise: float = noise
        ) -> npt.NDArray[np.float64]:
            scores_PV = original(engine, ids, positions)
            scores_PV[1, token] += noise if list(ids) == case.ids else 0
            return scores_PV

        monkeypatch.setattr(Echo, "scores", moved)
        found = prove(reference, Echo(reference), export_config, "gguf_f16", 10)
        assert found.max_delta == pytest.approx(expected)
        assert found.max_delta_vocabulary == pytest.approx(abs(noise))


def test_a_file_with_another_vocabulary_fails(
    reference: Reference, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Echo, "scores", lambda _, ids, positions: np.zeros((len(positions), len(ids))))
    with pytest.raises(DamagedError, match=r"it has \d+ vocabulary entries, the model has 448; nothing was published"):
        prove(reference, Echo(reference), export_config, "gguf_f32", 10)


def test_another_greedy_token_fails_unless_our_own_logits_tie(
    reference: Reference, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo(reference)
    second = int(np.argsort(reference.cases[0].logits_PV[-1])[-2])
    engine.answers[0] = [second, *engine.answers[0][1:]]
    with pytest.raises(DamagedError, match=r"gguf_f32 failed its proof: after 'def main.* \(gap .* a tie is 1e-05\)"):
        prove(reference, engine, export_config, "gguf_f32", 10)
    coarse = prove(reference, engine, export_config, "gguf_q8_0", 10)
    assert (coarse.greedy_equal, coarse.greedy_compared, coarse.greedy_ties) == (1, 2, 0)

    tied_V = reference.cases[0].logits_PV[-1].copy()
    tied_V[second] = tied_V.max() - 9e-6
    monkeypatch.setattr(reference, "next_logits", lambda _: tied_V)
    tied = prove(reference, engine, export_config, "gguf_f32", 10)
    assert (tied.greedy_equal, tied.greedy_ties) == (1, 1)
    tied_V[second] = tied_V.max() - 2e-5
    with pytest.raises(DamagedError, match="gap 2e-05"):
        prove(reference, engine, export_config, "gguf_f32", 10)


def test_f16_may_part_where_the_gap_is_within_its_own_rounding(
    reference: Reference, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Echo(reference)
    engine.noise = 1e-3
    tied_V = reference.cases[0].logits_PV[-1].copy()
    second = int(np.argsort(tied_V)[-2])
    engine.answers[0] = [second]
    monkeypatch.setattr(reference, "next_logits", lambda _: tied_V)
    tied_V[second] = tied_V.max() - 1.9e-3
    assert prove(reference, engine, export_config, "gguf_f16", 10).greedy_ties == 1
    tied_V[second] = tied_V.max() - 2.1e-3
    with pytest.raises(DamagedError, match=r"a tie is 0\.002"):
        prove(reference, engine, export_config, "gguf_f16", 10)


def test_a_continuation_that_ends_too_early_fails(reference: Reference, export_config: ExportConfig) -> None:
    engine = Echo(reference)
    engine.answers[1] = engine.answers[1][:-1]
    with pytest.raises(DamagedError, match="its greedy continuation is"):
        prove(reference, engine, export_config, "hf", 10)


def test_probabilities_too_small_for_float32_count_as_equal(
    reference: Reference, export_config: ExportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = reference.cases[-1]
    sharp_PV = last.logits_PV * 60
    assert parity.log_softmax(sharp_PV).min() < -90
    sharp = [*reference.cases[:-1], parity.Case(last.text, last.ids, last.positions, sharp_PV, [])]
    monkeypatch.setattr(reference, "cases", sharp)
    lowest = float(np.finfo(np.float32).min)
    original = Echo.scores

    def underflowing(engine: Echo, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        scores_PV = original(engine, ids, positions)
        return np.where(scores_PV < -87, lowest, scores_PV)

    monkeypatch.setattr(Echo, "scores", underflowing)
    found = prove(reference, Echo(reference), export_config, "gguf_f32", 10)
    assert found.max_delta == 0
    assert found.mean_kl < 1e-12


@given(st.integers(1, 200), st.integers(1, 64))
def test_positions_are_all_or_spread_evenly_and_hold_the_last(length: int, at_most: int) -> None:
    positions = parity.spread(length, at_most)
    assert positions == sorted(set(positions))
    assert positions[-1] == length - 1
    assert positions[0] >= 0
    assert len(positions) == min(length, at_most)
    gaps = np.diff([-1, *positions])
    assert gaps.max() - gaps.min() <= 1


@given(arrays(np.float64, (3, 7), elements=st.floats(-30, 30)), arrays(np.float64, (3, 7), elements=st.floats(-30, 30)))
def test_divergence_equals_torchs_and_is_never_negative(
    ours_PV: npt.NDArray[np.float64], theirs_PV: npt.NDArray[np.float64]
) -> None:
    logp_PV, logq_PV = parity.log_softmax(ours_PV), parity.log_softmax(theirs_PV)
    expected = torch.nn.functional.kl_div(
        torch.from_numpy(logq_PV), torch.from_numpy(logp_PV), log_target=True, reduction="none"
    ).sum(1)
    found = parity.kl_divergence(logp_PV, logq_PV)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)
    assert (found >= -1e-12).all()


def test_long_prompts_are_cut_and_one_row_fills_the_context(
    subject_of: SubjectOf, tokenizer: Tokenizer, export_config: ExportConfig
) -> None:
    found = Reference(subject_of(), export_config, ["x = 1\n" * 100])
    prompt, long = found.cases
    assert prompt.ids == tokenizer.encode("x = 1\n" * 100, bos=True)[: 64 - export_config.greedy_tokens - 1]
    assert (len(long.ids), long.positions, long.continuation) == (63, list(range(55, 63)), [])
    assert found.context_tokens == 63 + export_config.greedy_tokens + 1


def test_an_empty_prompt_is_a_prompt(subject_of: SubjectOf, tmp_path: Path, export_config: ExportConfig) -> None:
    assert proof(subject_of(), tmp_path, "gguf_f32", export_config, [""]).positions == 1 + 8


def test_a_continuation_that_fills_the_context_is_refused(subject_of: SubjectOf) -> None:
    with pytest.raises(
        UserError, match=r"export\.greedy_tokens \(63\) leaves no room for a prompt in model\.max_seq_len"
    ):
        Reference(subject_of(), ExportConfig(greedy_tokens=63), PROMPTS)


def test_the_table_shows_every_format_with_its_budget(
    reference: Reference, export_config: ExportConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Echo(reference)
    engine.noise = 5e-5
    result = prove(reference, engine, export_config, "gguf_f32", 12_345)
    result.greedy_ties, result.greedy_equal = 1, 1
    parity.show([result])
    line = next(line for line in capsys.readouterr().out.splitlines() if "gguf_f32" in line)
    for cell in (
        "12.3 kB",
        "yes",
        "1 of 2 (ties: 1)",
        "5e-05",
        "any token",
        "0.0001",
        "100.0 %",
    ):
        assert f" {cell} " in line
