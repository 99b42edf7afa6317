"""TRL's side of `bench_preferences.py`, in TRL's environment: `values REQUEST` or `dpo_trainer REQUEST`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

Request = dict[str, Any]


class Ready(DPOTrainer):  # type: ignore[misc]
    """A trainer whose rows are tokenized already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class ReadyKTO(KTOTrainer):  # type: ignore[misc]
    """The same."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def values(request: Request) -> None:
    """Each loss on the pairs, and its gradient by the embedding."""
    place, pairs, betas = Path(request["place"]), request["pairs"], request["betas"]
    found: dict[str, Any] = {"version": trl.__version__}
    rows = [{f"{name}_ids": ids for name, ids in pair.items()} for pair in pairs]
    common = {
        "output_dir": str(place / "trl"), "use_cpu": True, "report_to": "none", "bf16": False,
        "gradient_checkpointing": False, "per_device_train_batch_size": len(pairs), "max_length": None,
    }  # fmt: skip
    for name, kind in (("dpo", "sigmoid"), ("ipo", "ipo")):
        trainer = Ready(
            model=_model(place / "model"), ref_model=_model(place / "reference"), train_dataset=Dataset.from_list(rows),
            args=DPOConfig(beta=betas[name], loss_type=kind, **common), processing_class=tokenizer(),
        )  # fmt: skip
        found[name] = _judged(trainer, trainer.data_collator(rows))
    labelled = _labelled(pairs)
    config = KTOConfig(beta=betas["kto"], **{**common, "per_device_train_batch_size": len(labelled)},
                       train_sampling_strategy="sequential")  # fmt: skip
    trainer = ReadyKTO(
        model=_model(place / "model"), ref_model=_model(place / "reference"), train_dataset=Dataset.from_list(labelled),
        args=config, processing_class=tokenizer(),
    )  # fmt: skip
    found["kto"] = _judged(trainer, trainer.data_collator(labelled))
    for name in ("simpo", "orpo"):
        found[name] = _without_reference(name, _model(place / "model"), pairs, betas[name], request["gamma"])
    print(json.dumps(found))


def _judged(trainer: Any, inputs: Any) -> dict[str, Any]:
    trainer.model.train()
    return _with_gradient(trainer._compute_loss(trainer.model, inputs, False), trainer.model)


def _with_gradient(loss: torch.Tensor, model: Any) -> dict[str, Any]:
    loss.backward()  # type: ignore[no-untyped-call]
    return {"loss": loss.item(), "gradient": model.get_input_embeddings().weight.grad.tolist()}


def _labelled(pairs: list[dict[str, list[int]]]) -> list[dict[str, Any]]:
    """Each answer by itself, and to be compared with the answer of the pair before."""
    return [
        {
            "prompt_ids": pair["prompt"], "completion_ids": pair[side], "KL_completion_ids": pairs[number - 1][side],
            "label": side == "chosen",
        }
        for side in ("chosen", "rejected")
        for number, pair in enumerate(pairs)
    ]  # fmt: skip


def _without_reference(name: str, model: Any, pairs: Any, beta: float, gamma: float) -> dict[str, Any]:
    """CPO's and ORPO's trainers want a data set of texts; their losses are functions of log-probabilities."""
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    means = []
    for side in ("chosen", "rejected"):
        rows = [pair["prompt"] + pair[side] for pair in pairs]
        width = max(map(len, rows))
        ids = torch.tensor([row + [3] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        labels = torch.tensor([
            [-100] * len(pair["prompt"]) + row[len(pair["prompt"]) :] + [-100] * (width - len(row))
            for pair, row in zip(pairs, rows, strict=True)
        ])  # fmt: skip
        logits = model(input_ids=ids, attention_mask=mask).logits
        means.append(ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True))
    it = SimpleNamespace(
        beta=beta, loss_type="simpo", simpo_gamma=gamma, label_smoothing=0.0, alpha=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    if name == "simpo":
        return _with_gradient(CPOTrainer.cpo_loss(it, *means)[0].mean(), model)
    return _with_gradient(-ORPOTrainer.odds_ratio_loss(it, *means)[0].mean(), model)


def _model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def tokenizer() -> Any:
    """Nothing is tokenized; the trainers ask for the padding."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {f"<{number}>": number for number in range(8)}
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="<0>")))
    made.bos_token, made.eos_token, made.pad_token = "<1>", "<2>", "<3>"
    return made


def counted(batch: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens that are no padding, those that are learned, and places of a batch of pairs."""
    return int(batch["attention_mask"].sum()), int(batch["completion_mask"].sum()), batch["input_ids"].numel()


def dpo_trainer(request: Request) -> None:
    """`DPOTrainer.train()`, held before each step until it is told to go on."""
    from bench_posttrain_sides import Turns, train_in_turns

    train_in_turns((Ready, DPOConfig), "pairs.jsonl", tokenizer(), counted, request, Turns(request))


if __name__ == "__main__":
    {"values": values, "dpo_trainer": dpo_trainer}[sys.argv[1]](json.loads(sys.argv[2]))
