"""How much each step leaves out or blurs at random, and the seed of each row.

In: the micro-batches of a step, the settings, how far the training is. Out: the same micro-batches with a
`Dropout`, which goes with the batch through objective and model; none where nothing is left out, so a step
without is computed as if there were no dropout at all. Seeds are a function of the recipe's seed, the step and
the row's place in the step of all processes together, whatever the micro-batches: a resumed run, or one on
another number of processes, leaves out the same.

The schedules are those of Liu et al., "Dropout Reduces Underfitting" (arXiv 2303.01500): their early dropout
is `early` where it ends at once and `linear` with `over` below 1 where it fades, late dropout is `linear` upwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from slm.core.batch import Batch, Dropout
from slm.core.distributed import SOLO, World
from slm.core.seeds import derive
from slm.recipe import Recipe
from slm.train.config import DropoutConfig


def strength(config: DropoutConfig, progress: float) -> float:
    """The factor on every rate after `progress`, the share of all tokens that have been trained on."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "early":
        return 1.0 if progress < config.over else 0.0
    return config.from_share + (config.to_share - config.from_share) * min(progress / config.over, 1.0)


def thin(batches: Sequence[Batch], recipe: Recipe, step: int, progress: float, world: World = SOLO) -> None:
    """Give each micro-batch of step `step` of this process what it is to leave out, if anything."""
    config, layers = recipe.train.dropout, recipe.model.layers
    share = strength(config, progress)
    values = (config.rate, config.embedding_rate, config.drop_path, config.embedding_noise)
    rate, embedding_rate, deepest, noise = (share * value for value in values)
    if not (rate or embedding_rate or deepest or noise):
        return
    path_rates = tuple(deepest * (layer + 1) / layers for layer in range(layers))
    place = world.rank
    for batch in batches:
        rows, length = batch.tokens_BT.shape
        pieces = recipe.shards.seq_len // length  # of each row, where a curriculum cuts them
        places = range(place, place + world.size * (rows // pieces), world.size)
        seeds = [derive(recipe.seed, "dropout", step, place, piece) for place in places for piece in range(pieces)]
        batch.dropout = Dropout(rate, embedding_rate, path_rates, tuple(seeds), noise)
        place = places.stop
