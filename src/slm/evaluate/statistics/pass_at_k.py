"""How often one of k programs passes, estimated without bias from n >= k that were drawn."""

from __future__ import annotations

import math


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the share of all choices of k samples that hold one that passed (arXiv 2107.03374).

    The naive 1 - (1 - c / n)^k is biased: of 2 samples of which 1 passed it gives 0.75 at k = 2 instead of 1.
    Needs 0 <= passed <= samples and 1 <= k <= samples; computed as a product, so nothing overflows.
    """
    assert 0 <= passed <= samples, (passed, samples)
    assert 1 <= k <= samples, (k, samples)
    failed = samples - passed
    return 1.0 - math.prod((failed - i) / (samples - i) for i in range(k)) if failed >= k else 1.0
