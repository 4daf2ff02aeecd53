"""The gradient steps of a round of online training, at once or spread over it."""

from collections.abc import Callable

import numpy as np

from diffplan.agents._base import AgentState


class Updates:
    """The gradient steps of a round; as an observer it makes some at each decision.

    Args:
        total: Of the round.
        decisions: Over which they are spread.
        train: Makes some and returns the mean of each metric.
    """

    def __init__(
        self, total: int, decisions: int, train: Callable[[int], dict[str, float]]
    ) -> None:
        self.total, self.decisions, self.train = total, decisions, train
        self._seen = self._made = 0
        self._means: list[tuple[int, dict[str, float]]] = []

    def __call__(
        self,
        first: int,
        observations: np.ndarray,
        agent_state: AgentState,
    ) -> None:
        self._seen += 1
        self._reach(min(self.total, self.total * self._seen // self.decisions))

    def finish(self) -> dict[str, float]:
        """Make the steps that are left; return the mean of each metric over all."""
        self._reach(self.total)
        if len(self._means) < 2:
            return dict(self._means[0][1]) if self._means else {}
        names = self._means[0][1]
        return {
            name: sum(count * means[name] for count, means in self._means) / self.total
            for name in names
        }

    def _reach(self, target: int) -> None:
        if target > self._made:
            count = target - self._made
            self._means.append((count, self.train(count)))
            self._made = target
