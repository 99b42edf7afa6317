"""`slm coordinate_check recipe=NAME`: do settings found on a small model hold on a wide or deep one?

In: a recipe, for its optimizer and the make of its model; no shards. Out, in `<run>/coordinate_check`:
`coordinates.csv` and `coordinate_check.png`, and a table. Small models of growing width, then of growing depth, take
`STEPS` steps on random tokens in each parametrization; recorded is the mean absolute activation after each block
and of the logits, and how far it moved. What transfers is flat: under `mup` over widths, under `completep` over
depths as well (the coordinate check of Tensor Programs V, arXiv 2203.03466, appendix D.1). Fresh logits of a wide
model are small under `mup`, so theirs may fall. The recipe's learning rates count as those of the base, width 64
and 2 layers. Takes 10 s; says nothing about real data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from slm.compose import command
from slm.core.artifact import write_atomically
from slm.core.console import say, table
from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.objective.linear_cross_entropy import linear_cross_entropy
from slm.recipe import Recipe
from slm.report.png import Line, Panel, draw
from slm.train.config import OptimizerConfig
from slm.train.optim import Optimizer
from slm.train.parametrization import rescale

WIDTHS, DEPTHS = (64, 128, 256, 512), (2, 4, 8, 16)
PARAMETRIZATIONS = ("standard", "mup", "completep")
STEPS, ROWS, SEQ_LEN, VOCABULARY, HEAD_DIM = 4, 8, 16, 64, 16
STREAM, LOGITS = "last block", "logits"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """Means over all entries of an activation."""

    size: float
    """Its absolute value after the steps."""
    moved: float
    """The absolute value of its change over the steps."""


Found = dict[tuple[str, int], dict[str, Coordinate]]
"""By parametrization and width, or depth: each block by number, the last block and the logits."""


def run(recipe: Recipe) -> None:
    """Measure, write, draw."""
    by_width, by_depth = Found(), Found()
    for kind in PARAMETRIZATIONS:
        for width in WIDTHS:
            by_width[kind, width] = coordinates(shape_of(recipe.model, width, DEPTHS[0]), optimizer_of(recipe, kind))
        for layers in DEPTHS:
            by_depth[kind, layers] = coordinates(shape_of(recipe.model, WIDTHS[0], layers), optimizer_of(recipe, kind))
    folder = Path(recipe.runs_dir) / recipe.run / "coordinate_check"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["over,parametrization,width_or_layers,activation,mean_size,mean_movement"]
    checks = {"width": by_width, "layers": by_depth}
    for over, found in checks.items():
        lines += [
            f"{over},{kind},{number},{name},{each.size:.6g},{each.moved:.6g}"
            for (kind, number), parts in found.items()
            for name, each in parts.items()
        ]
    write_atomically(folder / "coordinates.csv", "\n".join(lines) + "\n")
    draw(folder / "coordinate_check.png", panels(by_width, by_depth))
    columns = [(over, found, name) for over, found in checks.items() for name in (STREAM, LOGITS)]
    table(
        "How many times further the largest model moves than the smallest",
        ("parametrization", *(f"{name}, over {over}" for over, _, name in columns)),
        [(kind, *(f"{growth(found, kind, name):.2f}" for _, found, name in columns)) for kind in PARAMETRIZATIONS],
    )
    say(f"coordinate_check: wrote {folder}")


def coordinates(shape: ModelConfig, optimizer: OptimizerConfig) -> dict[str, Coordinate]:
    """Sizes and movements of the activations of a fresh model over a few steps on the same random tokens."""
    model = build(shape, 0)
    rescale(model, optimizer)
    stepping = Optimizer(model, optimizer, shape)
    draws = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, shape.vocab_size, (ROWS, SEQ_LEN), generator=draws)
    before = _activations(model, tokens_BT)
    for _ in range(STEPS):
        hidden_BTD = model.hidden(tokens_BT[:, :-1])
        total, _ = linear_cross_entropy(hidden_BTD.flatten(0, 1), model.head_weight, tokens_BT[:, 1:].flatten())
        (total / tokens_BT[:, 1:].numel()).backward()  # type: ignore[no-untyped-call]
        stepping.step(1.0)
    after = _activations(model, tokens_BT)
    return {
        name: Coordinate(float(after[name].abs().mean()), float((after[name] - before[name]).abs().mean()))
        for name in before
    }


@torch.no_grad()
def _activations(model: torch.nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _inputs, out_BTD: seen.append(out_BTD.detach()))
        for block in model.get_submodule("blocks").children()
    ]
    logits_BTV: Tensor = model(tokens_BT)
    for handle in handles:
        handle.remove()
    blocks = {f"block {number}": out_BTD for number, out_BTD in enumerate(seen, 1)}
    return {**blocks, STREAM: seen[-1], LOGITS: logits_BTV}


def shape_of(model: ModelConfig, width: int, layers: int) -> ModelConfig:
    """A small model of the recipe's make: its norms, its ratio of feed-forward to width, its groups of heads."""
    heads, group = width // HEAD_DIM, model.heads // model.kv_heads
    changes = {
        "vocab_size": VOCABULARY, "width": width, "layers": layers, "heads": heads, "head_dim": HEAD_DIM,
        "kv_heads": heads if heads % group else heads // group, "ffn_width": width * model.ffn_width // model.width,
        "max_seq_len": SEQ_LEN, "sliding_window": 0, "rope_scaling": None, "tie_embeddings": False, "attention": "sdpa",
    }  # fmt: skip
    return model.model_copy(update=changes)


def optimizer_of(recipe: Recipe, parametrization: str) -> OptimizerConfig:
    """The recipe's optimizer in another parametrization, as if its rates had been found at the smallest model."""
    bases = {
        "base_width": 0 if parametrization == "standard" else WIDTHS[0],
        "base_layers": DEPTHS[0] if parametrization == "completep" else 0,
    }
    return recipe.train.optimizer.model_copy(update={"parametrization": parametrization, **bases})


def growth(found: Found, kind: str, name: str) -> float:
    """How many times further an activation moves in the largest model than in the smallest."""
    moved = [parts[name].moved for (each, _), parts in found.items() if each == kind]
    return moved[-1] / moved[0]


def panels(by_width: Found, by_depth: Found) -> list[list[Panel]]:
    """Sizes over widths, movements over widths, movements over depths; a column a parametrization."""
    wide = [f"block {number}" for number in range(1, DEPTHS[0] + 1)] + [LOGITS]
    return [
        [_panel(kind, by_width, "width", wide, "size") for kind in PARAMETRIZATIONS],
        [_panel(kind, by_width, "width", wide, "moved") for kind in PARAMETRIZATIONS],
        [_panel(kind, by_depth, "layers", [STREAM, LOGITS], "moved") for kind in PARAMETRIZATIONS],
    ]


def _panel(kind: str, found: Found, over: str, names: list[str], quantity: str) -> Panel:
    numbers = [number for each, number in found if each == kind]
    lines = [
        Line(numbers, [getattr(found[kind, number][name], quantity) for number in numbers], name) for name in names
    ]
    everything = [getattr(parts[name], quantity) for parts in found.values() for name in names]
    what = f"after {STEPS} steps" if quantity == "size" else f"moved in {STEPS} steps"
    y_range = (0.8 * min(everything), 1.25 * max(everything))  # the same in each column
    return Panel(f"{kind}, over {over}", over, f"mean |activation| {what}", lines, log_y=True, y_range=y_range)


def main() -> None:
    """Check the recipe's optimizer."""
    command("coordinate_check", run)


if __name__ == "__main__":
    main()
