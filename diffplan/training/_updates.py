"""The gradient steps of a round of online training, and what else learns in them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from diffplan.agents._base import AgentState
from diffplan.models.base import SequenceBatch


@runtime_checkable
class AuxiliaryUpdate(Protocol):
    """Something else that learns from each batch, right after the model did.

    A run that goes on compares its class and, if it has one, its `config`: a dataclass.
    """

    def update(self, batch: SequenceBatch) -> Mapping[str, Tensor]:
        """Make one update; return metrics, scalars without a graph."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next update depends on: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        ...


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
        running: np.ndarray,
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


def descend(
    loss: Tensor,
    parameters: Iterable[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    clip: float,
) -> Tensor:
    """Make one step of some parameters; return the norm of the gradient before it.

    Nothing else that the loss depends on gets a gradient: a world model in it learns
    elsewhere.

    Args:
        loss: Scalar.
        parameters: All that the optimiser has.
        optimizer: Makes the step.
        clip: Largest Euclidean norm of the gradient.
    """
    learnt = list(parameters)
    gradients = torch.autograd.grad(loss, learnt)
    for parameter, gradient in zip(learnt, gradients, strict=True):
        parameter.grad = gradient
    norm = nn.utils.clip_grad_norm_(learnt, clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm.detach()
