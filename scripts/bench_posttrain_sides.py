"""One side of `bench_posttrain.py` in a process of its own, which works when it is told to: `SIDE REQUEST`.

In: a JSON object (where model and conversations lie, threads, tokens a turn), then lines. Out: per line one turn as
JSON: seconds, steps, tokens without padding, those that are learned, and places; on `end` the peak memory of the
process, beside what it took before anything was built. TRL's side runs in another environment, so nothing of this
project is imported at the top.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Request = dict[str, Any]
Count = Callable[[dict[str, Any]], Iterable[int]]
"""Of a batch the tokens that are no padding, those that are learned, and places."""
Counts = dict[str, float]


class Turns:
    """Turns of steps, asked for by lines of standard input; a step is told to `after_step`."""

    def __init__(self, request: Request) -> None:
        self._clock: Callable[[], float] = time.process_time if request["cpu_seconds"] else time.perf_counter
        self._least: int = request["turn_tokens"]
        self._before = peak_bytes()
        self._counts: Counts = {}
        self._began = 0.0

    def begin(self) -> bool:
        """Wait to be told; False if that was the end."""
        if self._counts:
            return True
        line = sys.stdin.readline()
        if line.strip() == "1":
            self._counts = dict.fromkeys(("seconds", "steps", "tokens", "learned", "places"), 0.0)
            return True
        print(json.dumps({"before_bytes": self._before, "peak_bytes": peak_bytes()}), flush=True)
        return False

    def start(self) -> None:
        """A step begins."""
        self._began = self._clock()

    def stop(self, tokens: int, learned: int, places: int) -> None:
        """It has ended; the turn with it, if that is enough."""
        done = {"seconds": self._clock() - self._began, "steps": 1, "tokens": tokens, "learned": learned}
        for name, value in {**done, "places": places}.items():
            self._counts[name] += value
        if self._counts["tokens"] >= self._least:
            print(json.dumps(self._counts), flush=True)
            self._counts = {}


def peak_bytes() -> int:
    """The most memory this process had; `ru_maxrss` would know what its parent had when it started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def ours(request: Request, turns: Turns) -> None:
    """The steps of `slm.train`, data and optimizer included."""
    from slm.recipe import Recipe
    from slm.train import specification
    from slm.train.loop import forward_backward, next_batches, prepare

    recipe = Recipe.model_validate(request["recipe"])
    made = {name: str(recipe.artifact(name).path) for name in ("corpus", "tokenizer", "shards")}  # type: ignore[arg-type]
    train = {"threads": request["threads"], "probe": False, "prefetch_steps": 0}
    recipe = recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update=train), "runs_dir": request["place"],
            "artifacts": recipe.artifacts.model_copy(update=made),
        }
    )  # fmt: skip
    run = prepare(recipe, specification(recipe))
    pad = run.tokenizer.pad_id
    print(json.dumps({"ready": True}), flush=True)
    while turns.begin():
        turns.start()
        batches = next_batches(run, recipe, recipe.train.batch_tokens)
        forward_backward(run, batches, recipe.train.clip_norm)
        run.state.optimizer.step(1.0)
        read = sum(int((batch.tokens_BT != pad).sum()) for batch in batches)
        learned = sum(batch.num_targets for batch in batches)
        turns.stop(read, learned, sum(batch.tokens_BT.numel() for batch in batches))


def sft_trainer(request: Request, turns: Turns) -> None:
    """`SFTTrainer.train()`, held before each step until it is told to go on."""
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(Path(request["place"]) / "model")
    train_in_turns((SFTTrainer, SFTConfig), "conversations.jsonl", tokenizer, counted, request, turns)


def train_in_turns(
    kinds: tuple[Any, Any], name: str, tokenizer: Any, count: Count, request: Request, turns: Turns
) -> None:
    """Train with TRL's trainer and configuration (`kinds`) on the rows of the file `name`, each step in its turn."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(request["threads"])
    place = Path(request["place"])
    rows = [json.loads(line) for line in (place / name).open(encoding="utf-8")]
    config = kinds[1](
        output_dir=str(place / "trl"), use_cpu=True, report_to="none", save_strategy="no", max_steps=10**6,
        max_length=request["seq_len"], disable_tqdm=True, **request["config"],
    )  # fmt: skip
    kind, callback = held(kinds[0], turns, count)
    trainer = kind(
        model=AutoModelForCausalLM.from_pretrained(place / "model"), args=config, train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer, callbacks=[callback],
    )  # fmt: skip
    print(json.dumps({"ready": True}), flush=True)
    try:
        trainer.train()
    except KeyboardInterrupt:
        return


def held(kind: Any, turns: Turns, count: Count) -> tuple[Any, Any]:
    """A trainer of `kind` whose steps each wait for their turn, and the callback that it needs for that."""
    from transformers import TrainerCallback

    seen = list[dict[str, Any]]()

    class Turning(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not turns.begin():
                raise KeyboardInterrupt  # nothing of it is kept
            seen.clear()
            turns.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.stop(*map(sum, zip(*(count(batch) for batch in seen), strict=True)))

    class Trainer(kind):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            seen.append(dict(inputs))
            return super().training_step(model, inputs, *more, **named)

    return Trainer, Turning()


def counted(batch: dict[str, Any]) -> Iterator[int]:
    """Tokens that are no padding, those that are learned, and places of a batch of TRL's."""
    labels, mask = batch["labels"], batch.get("attention_mask")
    yield labels.numel() if mask is None else int(mask.sum())
    yield int((labels[:, 1:] != -100).sum())
    yield labels.numel()


SIDES = {"ours": ours, "sft_trainer": sft_trainer}


def main() -> None:
    """Import, then wait for turns."""
    name, request = sys.argv[1], json.loads(sys.argv[2])
    if name == "ours":
        import slm.train.loop  # noqa: F401  (what it takes is not the model's)
    else:
        import trl.trainer.sft_trainer  # noqa: F401
    SIDES[name](request, Turns(request))


if __name__ == "__main__":
    main()
