"""How small a difference can be seen, and how many items it takes: asked before a comparison, not after.

In: the standard error of a difference and the clusters it is over, or what these can be foreseen from (items, rate of
correct answers, how far two models agree). Out: the difference that a two-sided test at 5 % finds four times in five,
and its inverses, by the noncentral t distribution: the paired t test orders samples as the swaps of `paired` do.
2.8 standard errors of many clusters, 2.9 of 40, 3.3 of 8; fewer than 6 can never reach 5 %. Documents of unequal
length count as somewhat fewer: at 80 of them 76 % were found where this says 79 %.
"""

from __future__ import annotations

import math
from statistics import NormalDist

LEVEL = 0.05
POWER = 0.8


def detectable(standard_error: float, clusters: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true difference that a test at `level` finds with probability `power`; infinite for too few."""
    from scipy.special import nctdtrinc, stdtrit

    if 2.0 ** (1 - clusters) > level:
        return math.inf
    edge = stdtrit(clusters - 1, 1 - level / 2)
    return float(nctdtrinc(clusters - 1, 1 - power, edge)) * standard_error


def power_of(difference: float, standard_error: float, clusters: int, level: float = LEVEL) -> float:
    """How often a test at `level` finds a true difference of this size, on either side."""
    from scipy.special import nctdtr, stdtrit

    if 2.0 ** (1 - clusters) > level:
        return 0.0
    if not standard_error:
        return 1.0 if difference else level
    freedom, shift = clusters - 1, abs(difference) / standard_error
    edge = stdtrit(freedom, 1 - level / 2)
    return float(1 - nctdtr(freedom, shift, edge) + nctdtr(freedom, shift, -edge))


def items_needed(difference: float, spread: float, power: float = POWER, level: float = LEVEL) -> int:
    """How many items with this standard deviation of their difference it takes to find `difference`."""
    normal = NormalDist()
    shift = abs(difference) / spread
    many = math.ceil(((normal.inv_cdf(power) + normal.inv_cdf(1 - level / 2)) / shift) ** 2)
    items = max(many, 1 + math.ceil(-math.log2(level)))
    while detectable(spread / math.sqrt(items), items, power, level) > abs(difference):
        items += 1  # t is wider than the normal law by what two or three more items mend
    return items


def spread_of_difference(rate: float, correlation: float) -> float:
    """Standard deviation of the difference of two 0-or-1 scores of about this rate, so correlated over items."""
    return math.sqrt(2 * rate * (1 - rate) * (1 - correlation))
