"""The parts `values` and `preference` of `bench_posttrain.py`: preference losses and steps beside TRL's.

`values` packs random pairs into a row pair of ours and gives TRL the same pairs padded, with the same random weights
for model and reference: each loss of `objective.preference`, and its gradient by the embedding, beside TRL's
`DPOTrainer` (dpo, ipo), `KTOTrainer`, `CPOTrainer` (simpo) and `ORPOTrainer`. ORPO's is compared without the likelihood
of the chosen answer, which TRL takes over the prompt as well; ours is checked against closed forms in the tests.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm.core.batch import IGNORED, Batch
from slm.corpus import read_documents
from slm.model.config import ModelConfig
from slm.model.hugging_face import save_pretrained
from slm.model.transformer import Transformer, build
from slm.objective.config import ObjectiveConfig, PreferenceConfig
from slm.objective.mismatched import mismatched
from slm.objective.preference import Preference, Reference, answer_sums, pair_losses
from slm.recipe import Recipe
from slm.shards.encode import encode, sides_of
from slm.tokenizer import Tokenizer

THEIRS = Path(__file__).with_name("bench_preferences_theirs.py")
SHAPE = ModelConfig(
    vocab_size=256, width=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn_width=128, max_seq_len=256
)
BETAS = {"dpo": 0.1, "ipo": 0.2, "simpo": 2.0, "orpo": 0.3, "kto": 0.1}
PAIRS, SEQ_LEN, GAMMA = 6, 192, 0.8
GIVEN = 384
"""Pairs for TRL, which asks its reference about all of them before the first step; ours reads its shards."""
Pair = dict[str, list[int]]


def values(python: Path, place: Path) -> dict[str, Any]:
    """Each loss and the norm of its gradient's difference, ours beside TRL's, on one batch of random pairs."""
    generator = torch.Generator().manual_seed(5)
    model, reference = build(SHAPE, 1), build(SHAPE, 2)
    for name, one in (("model", model), ("reference", reference)):
        save_pretrained(one, place / name, bos_id=1, eos_id=2, pad_id=3)
    pairs = [_pair(generator) for _ in range(PAIRS)]
    request = {"pairs": pairs, "betas": BETAS, "gamma": GAMMA, "place": str(place)}
    done = subprocess.run([python, THEIRS, "values", json.dumps(request)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: TRL's side failed:\n{done.stderr[-3000:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    batch, found = _packed(pairs), dict[str, dict[str, float]]()
    print(f"{'loss':<8}{'ours':>14}{'TRL':>14}{'difference':>14}{'of the gradient':>18}")
    for name in BETAS:
        model.zero_grad(set_to_none=True)
        loss = _ours(name, model, reference, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert model.embedding.weight.grad is not None
        slopes = torch.tensor(theirs[name]["gradient"])
        off = float((model.embedding.weight.grad - slopes).norm() / slopes.norm())
        difference = abs(float(loss.detach()) - theirs[name]["loss"])
        found[name] = {"ours": float(loss.detach()), "trl": theirs[name]["loss"], "gradient": off}
        print(f"{name:<8}{found[name]['ours']:>14.7f}{found[name]['trl']:>14.7f}{difference:>14.1e}{off:>18.1e}")
    worst = max(abs(one["ours"] - one["trl"]) for one in found.values())
    return {"values": found, "max_difference": worst, "trl": theirs["version"]}


def _ours(name: str, model: Transformer, reference: Transformer, batch: Batch) -> Tensor:
    settings = {"loss": name, "beta": BETAS[name], **({"gamma": GAMMA} if name == "simpo" else {})}
    if name == "orpo":  # without the likelihood
        sums = answer_sums(model, batch, PAIRS)
        sides = [column[side] for column in sums for side in (0, 1)]
        config = PreferenceConfig.model_validate(settings)
        return (pair_losses(config, *sides) + sides[0] / sides[2]).mean()
    objective = Preference(ObjectiveConfig.model_validate({"kind": "preference", "preference": settings}).preference)
    with torch.no_grad():
        told = Reference(*(answer_sums(reference, one, PAIRS).log_probs_BP for one in (batch, mismatched(batch))))
    objective.references = (told, told)
    return objective(model, batch).nats_sum / PAIRS


def _pair(generator: torch.Generator) -> Pair:
    sizes = {"prompt": (4, 14), "chosen": (2, 12), "rejected": (2, 12)}
    lengths = {name: int(torch.randint(*size, (1,), generator=generator)) for name, size in sizes.items()}
    return {n: torch.randint(4, 256, (length,), generator=generator).tolist() for n, length in lengths.items()}


def _packed(pairs: list[Pair]) -> Batch:
    """The pairs as a row of chosen and a row of rejected answers."""
    shape = (2, SEQ_LEN)
    tokens, targets = torch.full(shape, 3), torch.full(shape, IGNORED)
    documents, positions = torch.full(shape, -1, dtype=torch.int32), torch.zeros(shape, dtype=torch.int64)
    for row, side in enumerate(("chosen", "rejected")):
        begin = 0
        for number, pair in enumerate(pairs):
            ids = torch.tensor([*pair["prompt"], *pair[side]])
            mine, first = slice(begin, begin + len(ids)), begin + len(pair["prompt"])
            tokens[row, mine], documents[row, mine], positions[row, mine] = ids, number, torch.arange(len(ids))
            targets[row, first - 1 : mine.stop - 1] = ids[len(pair["prompt"]) :]
            begin = mine.stop
    count = int((targets != IGNORED).sum())
    return Batch(tokens, targets, documents, positions, count, num_preferences=len(pairs), rows_B=torch.arange(2))


def write_pairs(recipe: Recipe, file: Path) -> int:
    """Some of the training pairs that the recipe's shards hold, as `DPOTrainer` takes them tokenized; their number."""
    pairs = [pair for _, pair in zip(range(GIVEN), pairs_of(recipe), strict=False)]
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    if not pairs:
        raise SystemExit(f"error: {recipe.run} has no pairs of answers; take a recipe such as dpo_15m")
    return len(pairs)


def pairs_of(recipe: Recipe) -> Iterator[Pair]:
    """Prompt and answers of each, cut as the shards cut them."""
    tokenizer = Tokenizer.load(recipe.artifact("tokenizer").path)
    for document, ids in encode(read_documents(recipe.artifact("corpus"), "train"), tokenizer, 1):
        told = []
        for _, (ids_T, learned_T) in sides_of(document, ids, tokenizer):
            assert learned_T is not None
            first, last = int(learned_T.argmax()), len(learned_T) - int(learned_T[::-1].argmax())
            told.append((first, ids_T[: min(last, recipe.shards.seq_len)].tolist()))
        (first, chosen), (other, rejected) = told
        if first == other < min(len(chosen), len(rejected)) and chosen != rejected:
            yield {"prompt_ids": chosen[:first], "chosen_ids": chosen[first:], "rejected_ids": rejected[first:]}


def trainers(pairs_a_step: int) -> dict[str, dict[str, Any]]:
    """How TRL's sides are set up: as one gets it, and for speed with as many pairs a step as ours."""
    speed = {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
    return {"DPOTrainer": {}, "DPOTrainer, for speed": {**speed, "per_device_train_batch_size": pairs_a_step}}
