"""The proof that an exported file is the model: the same ids, the same text, the same probabilities.

In: our model in float32 and an engine that opened the file. Out: a `Parity` per file, or a sentence that
stops the export. Compared over every prompt: token ids (the prompts and `PROBES`, texts that tokenizers
get wrong), logits or log-probabilities of the whole vocabulary at each position, and greedy continuations;
further, at the last positions of one row of 128 tokens, where a wrong rotary base shows. Not further out:
rotary angles are float32 in every engine, and log-probabilities part with the position whatever the file
(F32 against float64, trained model: 2e-5 at 64, 6e-5 at 250, 1e-3 at 1,000, ours and llama.cpp's alike).

What the budget bounds: for HF, F32 and ONNX, which keep every number, the whole vocabulary. For F16, BF16 and
Q8_0 the tokens of the text: at each position the token that follows in the prompt and the one that the
model finds likeliest. Rounding the weights moves the log-probability of a token that nobody will draw
far more (a trained model of the quickstart's shape in F16: 0.006 over the vocabulary, 0.004 of it from the
weights alone and so in any engine, 0.002 on the text); that figure is reported, with mean KL.
Log-probabilities below `FLOOR` count as equal: llama.cpp takes them through float32 probabilities, which
end there. Greedy continuations must be equal in the formats that keep the numbers or nearly (HF, F32,
ONNX, F16); a different token where our own two logits are a tie is none: within 1e-5, or in F16, which cannot
tell closer ones apart, within twice the difference measured. Ties are counted and shown.

Cost: one request per position to llama.cpp, 2 ms at 300 entries, 0.2 s at 32,768 (JSON, most of it there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from slm.core.console import quantity, size, table
from slm.core.errors import DamagedError, UserError
from slm.export.config import ExportConfig, Format
from slm.export.subject import Engine, Subject
from slm.model.cache import KVCache

if TYPE_CHECKING:
    import numpy.typing as npt

    from slm.model.transformer import Transformer

FLOOR = -80.0
TIE = 1e-5
LONG_TOKENS = 128
LONG_POSITIONS = 8
EXACT_FORMATS = ("hf", "gguf_f32", "onnx")
"""Formats that keep every number."""
WHOLE_VOCABULARY = (*EXACT_FORMATS, "awq")
"""Formats held to their budget over every token. AWQ keeps all numbers but norms, which become float16."""
SAME_TEXT_FORMATS = (*WHOLE_VOCABULARY, "gguf_f16")
"""Formats whose greedy continuations must be the model's."""
PROBES = (
    "", " ", "  leading", "a  b   c", "\n", "\n\n\tx\r\n", "\x00", "<s></s><unk>", "<0x41>", "naïve café",
    "日本語のテキスト", "\U0001f469\u200d\U0001f467 \U0001f642", "1234567", "<|im_start|>user<|im_end|><|bos|><|eos|>",
    "\ufeffx", "e\u0301", "\u200b", "x = {'a': [1, 2]}",
)  # fmt: skip
"""Texts that tokenizers get wrong: spaces at the ends, control characters, control tokens' texts, other scripts."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of tokens at which model and file are compared."""

    text: str
    ids: list[int]
    positions: list[int]
    logits_PV: npt.NDArray[np.float64]
    continuation: list[int]
    """Our greedy continuation, up to and with a token that ends a text; empty if it is not compared."""


@dataclass(slots=True)
class Parity:
    """How close one file is to its model."""

    format: Format
    size_bytes: int
    quantity: str
    """What `max_delta` is the largest difference of."""
    budget: float
    token_ids_equal: bool = True
    greedy_equal: int = 0
    greedy_compared: int = 0
    greedy_ties: int = 0
    max_delta: float = 0.0
    max_delta_vocabulary: float = 0.0
    mean_kl: float = 0.0
    top1_agreement: float = 1.0
    positions: int = 0
    worst: str = ""
    notices: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """What the file says of itself, where a format has more than one way to be run."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


class Reference:
    """Our model in float32, and what it says at every case."""

    def __init__(self, subject: Subject, config: ExportConfig, prompts: Sequence[str]) -> None:
        self.subject = subject
        self._model: Transformer = subject.model.float().eval()
        self.greedy_tokens, self._max_positions = config.greedy_tokens, config.max_positions
        room = subject.model.config.max_seq_len - config.greedy_tokens - 1
        if room < 1:
            raise UserError(
                f"export.greedy_tokens ({config.greedy_tokens:,}) leaves no room for a prompt in model.max_seq_len "
                f"({subject.model.config.max_seq_len:,}); lower it"
            )
        tokenizer = subject.tokenizer
        self.texts = list(dict.fromkeys(prompts))
        rows = [tokenizer.encode(text, bos=True)[:room] for text in self.texts]
        self.cases = [self._case(text, row) for text, row in zip(self.texts, rows, strict=True)]
        self.cases.append(self._long_case([token for row in rows for token in row[1:]]))
        self.context_tokens = max(len(case.ids) for case in self.cases) + config.greedy_tokens + 1

    def next_logits(self, ids: Sequence[int]) -> npt.NDArray[np.float64]:
        """Our logits [V] of what follows `ids`."""
        logits_V: npt.NDArray[np.float64] = self._logits(ids, [len(ids) - 1])[0]
        return logits_V

    def _case(self, text: str, ids: list[int]) -> Case:
        positions = spread(len(ids), self._max_positions)
        return Case(text, ids, positions, self._logits(ids, positions), self._greedy(ids))

    def _long_case(self, tokens: Sequence[int]) -> Case:
        """The prompts' tokens again and again, compared at the end."""
        length = min(self._model.config.max_seq_len - 1, LONG_TOKENS)
        tokens = tokens or [self.subject.tokenizer.eos_id]
        ids = [self.subject.tokenizer.bos_id, *(tokens[index % len(tokens)] for index in range(length - 1))]
        positions = list(range(max(0, length - LONG_POSITIONS), length))
        return Case(f"(a row of {length:,} tokens)", ids, positions, self._logits(ids, positions), [])

    @torch.inference_mode()
    def _logits(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        x_TD = self._model.hidden(torch.tensor([list(ids)]))[0, list(positions)]
        logits_PV: npt.NDArray[np.float64] = self._model.project(x_TD).double().numpy()
        return logits_PV

    @torch.inference_mode()
    def _greedy(self, ids: Sequence[int]) -> list[int]:
        cache = KVCache(self._model.config, 1, len(ids) + self.greedy_tokens)
        fed, continuation = list(ids), list[int]()
        while len(continuation) < self.greedy_tokens:
            x_TD = self._model.hidden(torch.tensor([fed]), cache=cache)[0, -1:]
            fed = [int(self._model.project(x_TD)[0].argmax())]
            continuation += fed
            if fed[0] in self.subject.end_ids:
                break
        return continuation


def prove(reference: Reference, engine: Engine, config: ExportConfig, name: Format, size_bytes: int) -> Parity:
    """Compare a file, opened by `engine`, with the model; raises a sentence where it is over its budget."""
    key, budget = config.budget(name)
    scope = "whole vocabulary" if name in WHOLE_VOCABULARY else "tokens of the text"
    result = Parity(name, size_bytes, f"{engine.quantity}, {scope}", budget)
    _compare_ids(reference, engine, result)
    _compare_scores(reference.cases, engine, result)
    if result.max_delta > budget:
        raise UserError(
            f"{name} failed its proof: largest |difference| {result.max_delta:.3g} ({result.quantity}) at "
            f"{result.worst}, above {key} ({budget:g}); nothing was published: leave {name} out of "
            "export.formats, or raise the budget if the format is too coarse for this model"
        )
    for case in reference.cases:
        if case.continuation:
            _compare_greedy(reference, engine, case, result)
    return result


def show(results: Sequence[Parity]) -> None:
    """Print what was proved as a table."""
    columns = (
        "format", "size", "ids equal", "greedy equal", "max |Δ log-prob|", "of", "budget", "any token", "mean KL",
        "top-1",
    )  # fmt: skip
    table(
        "Parity with the model, by the engines that open the files",
        columns,
        [
            (
                result.format,
                size(result.size_bytes),
                "yes" if result.token_ids_equal else "no",
                _greedy_cell(result),
                quantity(result.max_delta),
                _scope_cell(result),
                quantity(result.budget),
                quantity(result.max_delta_vocabulary),
                quantity(result.mean_kl),
                f"{100 * result.top1_agreement:.1f} %",
            )
            for result in results
        ],
    )


def _compare_ids(reference: Reference, engine: Engine, result: Parity) -> None:
    tokenizer = reference.subject.tokenizer
    for text in dict.fromkeys([*reference.texts, *PROBES]):
        if any(character in text for character in engine.misread):
            result.notices.append(
                f"{result.format}: {text[:40]!r} holds {engine.misread!r}, which its engine reads as something else; "
                "its ids were not compared"
            )
            continue
        ours, theirs = tokenizer.encode(text, bos=True), engine.tokenize(text)
        if ours != theirs:
            raise DamagedError(
                f"{result.format} failed its proof: {text[:40]!r} becomes the ids {_short(theirs)} there, "
                f"{_short(ours)} here; nothing was published: the tokenizer was changed or its export is wrong"
            )


def _compare_scores(cases: Sequence[Case], engine: Engine, result: Parity) -> None:
    divergences, agreed = list[float](), 0
    for case in cases:
        theirs_PV = engine.scores(case.ids, case.positions)
        if theirs_PV.shape != case.logits_PV.shape:
            raise DamagedError(
                f"{result.format} failed its proof: it has {theirs_PV.shape[-1]:,} vocabulary entries, the model has "
                f"{case.logits_PV.shape[-1]:,}; nothing was published"
            )
        if not np.isfinite(theirs_PV).all():
            raise DamagedError(
                f"{result.format} failed its proof: NaN or infinity among its {engine.quantity} for "
                f"{case.text[:40]!r}; nothing was published: leave {result.format} out of export.formats"
            )
        logp_PV = log_softmax(case.logits_PV)
        if engine.quantity == "logits":
            delta_PV = np.abs(theirs_PV - case.logits_PV)
        else:
            theirs_PV = np.maximum(theirs_PV, FLOOR)
            delta_PV = np.abs(theirs_PV - np.maximum(logp_PV, FLOOR))
        theirs_logp_PV = log_softmax(theirs_PV)
        result.max_delta_vocabulary = max(result.max_delta_vocabulary, float(delta_PV.max()))
        delta_P = delta_PV.max(axis=1) if result.format in WHOLE_VOCABULARY else _on_text(delta_PV, case)
        worst = int(delta_P.argmax())
        if delta_P[worst] > result.max_delta or not result.worst:
            result.max_delta = float(delta_P[worst])
            result.worst = f"token {case.positions[worst] + 1:,} of {case.text[:40]!r}"
        divergences += kl_divergence(logp_PV, theirs_logp_PV).tolist()
        agreed += int((theirs_PV.argmax(axis=1) == case.logits_PV.argmax(axis=1)).sum())
    result.positions = len(divergences)
    result.mean_kl = float(np.mean(divergences))
    result.top1_agreement = agreed / len(divergences)


def _on_text(delta_PV: npt.NDArray[np.float64], case: Case) -> npt.NDArray[np.float64]:
    """The larger difference [P] of two tokens: the next of the text, and the model's likeliest."""
    likeliest_P = case.logits_PV.argmax(axis=1)
    followers = [case.ids[place + 1] if place + 1 < len(case.ids) else None for place in case.positions]
    next_P = [likeliest if token is None else token for token, likeliest in zip(followers, likeliest_P, strict=True)]
    rows_P = np.arange(len(delta_PV))
    on_text_P: npt.NDArray[np.float64] = np.maximum(delta_PV[rows_P, likeliest_P], delta_PV[rows_P, next_P])
    return on_text_P


def _compare_greedy(reference: Reference, engine: Engine, case: Case, result: Parity) -> None:
    theirs = engine.greedy(case.ids, reference.greedy_tokens)
    result.greedy_compared += 1
    split = next((i for i, (a, b) in enumerate(zip(case.continuation, theirs, strict=False)) if a != b), None)
    if split is None and len(theirs) == len(case.continuation):
        result.greedy_equal += 1
        return
    if result.format not in SAME_TEXT_FORMATS:
        return
    gap = np.inf
    if split is not None:
        logits_V = reference.next_logits([*case.ids, *case.continuation[:split]])
        gap = abs(logits_V[case.continuation[split]] - logits_V[theirs[split]])
    tie = TIE if result.format in EXACT_FORMATS else max(TIE, 2 * result.max_delta_vocabulary)
    if gap > tie:
        raise DamagedError(
            f"{result.format} failed its proof: after {case.text[:40]!r} its greedy continuation is {_short(theirs)}, "
            f"the model's is {_short(case.continuation)} (gap {gap:.3g} where they part, a tie is {tie:.3g}); "
            f"nothing was published: leave {result.format} out of export.formats"
        )
    result.greedy_ties += 1


def spread(length: int, at_most: int) -> list[int]:
    """At most so many positions below `length`, evenly spread, the last one included."""
    count = min(at_most, length)
    return [length - 1 - index * length // count for index in reversed(range(count))]


def log_softmax(scores_PV: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log-probabilities of logits (or of log-probabilities, whose rounding it evens out)."""
    shifted_PV = scores_PV - scores_PV.max(axis=1, keepdims=True)
    logp_PV: npt.NDArray[np.float64] = shifted_PV - np.log(np.exp(shifted_PV).sum(axis=1, keepdims=True))
    return logp_PV


def kl_divergence(logp_PV: npt.NDArray[np.float64], logq_PV: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL(p || q) of each row, in nats."""
    divergence_P: npt.NDArray[np.float64] = (np.exp(logp_PV) * (logp_PV - logq_PV)).sum(axis=1)
    return divergence_P


def _scope_cell(result: Parity) -> str:
    if result.quantity.startswith("logits"):
        return "any token's logit"
    return "any token" if result.format in WHOLE_VOCABULARY else "text"


def _greedy_cell(result: Parity) -> str:
    text = f"{result.greedy_equal} of {result.greedy_compared}"
    return f"{text} (ties: {result.greedy_ties})" if result.greedy_ties else text


def _short(ids: Sequence[int]) -> str:
    return f"{list(ids[:8])}".removesuffix("]") + (", ...]" if len(ids) > 8 else "]")
