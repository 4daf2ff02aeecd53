"""iCEM: coloured noise, fewer samples as it goes on, elites that are kept and shifted.

Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time planning"
(arXiv:2008.06389), algorithm 1.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

import diffplan as dp
from diffplan.planners import PlanRequest, Search


class ICEM(dp.CEM):
    """CEM that needs few samples: what was good is kept, within a plan and beyond.

    Args:
        horizon: T, number of planned actions.
        num_samples: Samples of the first iteration.
        num_elites: How many of them the Gaussian is refitted to.
        iterations: Refits.
        noise_exponent: Colour β of the noise over time.
        decay: Each iteration has this many times fewer samples than the one before.
        num_kept: Elites that the next iteration, and the next plan, tries again. Where
            there are none yet, the first mean is tried as often, unlike in the paper.
        momentum: Share of the old mean and spread in the new ones.
        **options: Others of `dp.CEM`.
    """

    remembered: ClassVar = ("elites",)

    def __init__(
        self,
        horizon: int,
        *,
        num_samples: int = 100,
        num_elites: int = 10,
        iterations: int = 3,
        noise_exponent: float = 2.0,
        decay: float = 1.25,
        num_kept: int = 3,
        momentum: float = 0.1,
        **options: Any,
    ) -> None:
        options |= {"num_samples": num_samples, "num_elites": num_elites}
        options |= {"iterations": iterations, "noise_exponent": noise_exponent}
        super().__init__(horizon, **options)
        self.decay, self.num_kept, self.momentum = decay, num_kept, momentum
        ranges = {"decay": (1, torch.inf), "num_kept": (1, num_elites)}
        for name, (least, most) in {**ranges, "momentum": (0, 1)}.items():
            if not least <= (value := getattr(self, name)) <= most:
                told = f"{name}: expected {least} … {most}, got {value}"
                raise dp.errors.ArgumentError(told)

    def begin(self, request: PlanRequest) -> Search:
        """Start with the elites of the plan before, which were shifted with it."""
        search, elites = super().begin(request), None
        if request.warm_start is not None:
            elites = request.warm_start.memory.get("elites")
        if elites is None:
            elites = search.mean.unsqueeze(1).expand(-1, self.num_kept, -1, -1)
        return search._replace(carried={"elites": elites})

    def propose(self, search: Search, noise: Tensor, iteration: int) -> Tensor:
        """Return samples, the kept elites and in the last iteration the mean."""
        fewer = int(self.num_samples * self.decay**-iteration)
        count = max(fewer, min(2 * self.num_elites, self.num_samples))
        parts = [super().propose(search, noise[:, :count], iteration)]
        parts.append(search.carried["elites"])
        if iteration == self.iterations - 1:
            parts.append(search.mean.unsqueeze(1))
        return torch.cat(parts, dim=1)

    def refit(
        self, search: Search, candidates: Tensor, cost: Tensor, weights: Tensor
    ) -> Search:
        """Move mean and spread a part of the way, and keep the cheapest candidates."""
        fitted, old = super().refit(search, candidates, cost, weights), self.momentum
        best = cost.topk(self.num_kept, largest=False).indices[..., None, None]
        elites = candidates.gather(1, best.expand(-1, -1, *candidates.shape[2:]))
        return Search(
            mean=fitted.mean.lerp(search.mean, old),
            std=fitted.std.lerp(search.std, old),
            carried={"elites": elites},
        )

    def answer(self, search: Search) -> Tensor:
        """Return the cheapest candidate: no iteration loses it, since it is kept."""
        return search.carried["elites"][:, 0]
