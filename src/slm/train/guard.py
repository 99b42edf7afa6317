"""Which steps may change the weights: none that is not finite, none that is a spike.

In: loss and gradient norm of each step, equal on all processes. Out: a verdict. A value is a spike above
mean + `sigma` standard deviations of the last `window` accepted steps (OLMo-core's SkipStepAdamW: 6 and
128, judged from 64 on); what was skipped and what is not finite never enters the window, so one NaN cannot
blind it. Steps on what the student of a distillation wrote itself have a window of their own, since
their losses are lower. Verdicts are a function of the state alone, which the checkpoint holds as JSON: a resumed run
judges as the unbroken one. It costs 40 us a step. A clean run computes the same with it and without it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from slm.core.errors import UserError
from slm.train.config import GuardConfig

FLAT = 1e-3
"""Least standard deviation as a share of the mean: in a flat window rounding would be a spike."""
WINDOWS = ("losses", "grad_norms", "own_losses", "own_grad_norms")
"""Of steps on the text, and of steps on the student's own words."""


class Guard:
    """Judges steps and remembers: the window, the open row of skips, and where the run was rewound to."""

    def __init__(self, config: GuardConfig) -> None:
        self._config = config
        self._windows = {name: deque[float](maxlen=config.window) for name in WINDOWS}
        self.skips: list[dict[str, Any]] = []
        """The skipped steps since the last accepted one."""
        self.skipped = 0
        """Skipped steps of the whole run, also of what was rewound."""
        self.rewinds: list[int] = []
        """The steps that the run was rewound to."""

    def judge(self, loss: float, grad_norm: float, own: bool = False) -> str:
        """Why this step must not change the weights; empty if it may, and then it joins the window.

        `own` where the student's own words were learned."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            if not self._config.enabled:
                raise UserError(
                    f"the loss ({loss}) or the gradient norm ({grad_norm}) is not finite; the weights of the last "
                    "checkpoint are sound: lower train.optimizer.lr or muon_lr, look for a damaged document, "
                    "or set train.guard.enabled=true to skip such steps"
                )
            return f"not finite: loss {loss}, gradient norm {grad_norm}"
        if not self._config.enabled:
            return ""
        losses, norms = (self._windows[name] for name in (WINDOWS[2:] if own else WINDOWS[:2]))
        for name, value, window in (("loss", loss, losses), ("gradient norm", grad_norm, norms)):
            limit = self._limit(window)
            if value > limit:
                return f"spike: {name} {value:.4g} above {limit:.4g}"
        losses.append(loss)
        norms.append(grad_norm)
        self.skips.clear()
        return ""

    def skip(self, **facts: Any) -> None:
        """Count a step that was not taken; `facts` (JSON values) go into the autopsy."""
        self.skips.append(facts)
        self.skipped += 1

    @property
    def must_rewind(self) -> bool:
        """True once the row of skips is as long as it may be."""
        return len(self.skips) >= self._config.max_skips

    def rewound(self, step: int, before: Guard) -> None:
        """Carry the history over a rewind to `step`, whose checkpoint this guard was just restored from."""
        self.skipped = before.skipped
        self.rewinds = [*before.rewinds, step]

    def _limit(self, window: Sequence[float]) -> float:
        if len(window) < self._config.warm_in:
            return math.inf
        mean = sum(value / len(window) for value in window)
        deviation = math.hypot(*(value - mean for value in window)) / math.sqrt(len(window))  # squares may overflow
        return mean + self._config.sigma * max(deviation, FLAT * abs(mean))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next verdict depends on, as JSON values."""
        return {
            **{name: list(window) for name, window in self._windows.items()},
            "skips": list(self.skips),
            "skipped": self.skipped,
            "rewinds": list(self.rewinds),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._windows = {name: deque(state.get(name, ()), maxlen=self._config.window) for name in WINDOWS}
        self.skips, self.skipped, self.rewinds = list(state["skips"]), state["skipped"], list(state["rewinds"])
