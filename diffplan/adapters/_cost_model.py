"""What of stable-worldmodel is a planning problem: its cost models as objectives.

A cost model tells what whole action sequences cost; its dynamics stay inside. To a
planner that is a problem whose objective looks at actions alone::

    state      b, the number of the situation      [B, 1]
    dynamics   b → b
    objective  (states, actions) → get_cost(infos of situation b, actions)

The state says which situation it is, so that infos and actions belong together however
a planner lays candidates, starts or failed rows out.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from diffplan._user_functions import require_result
from diffplan.constraints._box import BoxLike
from diffplan.errors import ShapeError, TensorTypeError
from diffplan.functional._derivatives import inside_transform
from diffplan.problem import PlanningProblem

Infos = Mapping[str, Any]
"""What is known of B situations: tensors, arrays and lists that lead with B."""


@runtime_checkable
class CostModel(Protocol):
    """A world model of stable-worldmodel, as far as planning needs it."""

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Return the cost `[B, S]` of candidates `[B, S, H, A]`."""
        ...


class TrajectoryCost:
    """A cost model's judgement of whole action sequences, as an objective.

    Args:
        model: With `get_cost`.
        infos: Of B situations; tensors and arrays lead with B. Floating point numbers
            become the model's.
        batch_size: B; None takes it from the infos.

    Attributes:
        batch_size: B.
        like: An empty tensor of the model's dtype, on its device.

    Raises:
        ShapeError: the infos do not lead with one B.
        TensorTypeError: the model has no `get_cost`.
    """

    def __init__(
        self, model: CostModel, infos: Infos, batch_size: int | None = None
    ) -> None:
        if not callable(getattr(model, "get_cost", None)):
            raise TensorTypeError(
                "model: expected get_cost(info_dict, action_candidates), "
                f"{type(model).__name__} has none"
            )
        self.model, self.batch_size = model, situations(infos, batch_size)
        parameter = None
        if isinstance(model, nn.Module):
            parameter = next(model.parameters(), None)
        self.like = torch.empty(0) if parameter is None else parameter.new_empty(0)
        self.infos = {name: self._moved(value) for name, value in infos.items()}
        self._kept: tuple[int, dict[str, Any]] | None = None

    def __call__(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the cost `[…]` of actions `[…, T, A]`.

        Args:
            states: `[…, T+1, 1]`, the number of the situation, the same in all steps.
            actions: What stands behind the first dimension are candidates of one
                situation.

        Raises:
            ShapeError: `get_cost` does not return one cost for each candidate.
        """
        lead = actions.shape[:-2]
        samples = lead[1:].numel()
        number = states[..., 0, 0].reshape(-1, samples)[:, 0].long()
        candidates = actions.reshape(-1, samples, *actions.shape[-2:]).to(self.like)
        infos = self._expanded(number, samples)
        cost = self.model.get_cost(infos, candidates)
        shape = (len(number), samples)
        require_result("model:", self.model.get_cost, cost, shape, like=cost)
        return cost.reshape(lead).to(actions)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.like if value.is_floating_point() else self.like.device)

    def _expanded(self, number: Tensor, samples: int) -> dict[str, Any]:
        """Return the infos of some situations, for each of their candidates."""
        # Without a graph, as many as there are stand in their order: nothing is copied.
        # With one, the inputs of a failed row are replaced by those of another.
        whole = len(number) == self.batch_size and not (
            torch.is_grad_enabled() or inside_transform()
        )
        # Models write into the infos what they computed of them, such as a goal's
        # embedding, and find it there in the next iteration.
        if whole and self._kept is not None and self._kept[0] == samples:
            return self._kept[1]
        chosen = None if whole else number
        infos = {
            name: _repeated(value, chosen, samples, self.batch_size)
            for name, value in self.infos.items()
        }
        if whole:
            self._kept = samples, infos
        return infos


def planning_problem(
    model: CostModel,
    infos: Infos,
    action_space: BoxLike,
    batch_size: int | None = None,
) -> tuple[PlanningProblem, Tensor]:
    """Return what a planner plans for a cost model, and the states to plan from.

    Gradients with respect to the model's parameters go through the plan as through any
    other, where `get_cost` has them.

    Args:
        model: With `get_cost`.
        infos: Of B situations; tensors and arrays lead with B.
        action_space: `Box` of what the model is given.
        batch_size: B; None takes it from the infos.

    Returns:
        A `PlanningProblem`, and states `[B, 1]`.

    Raises:
        ShapeError: the infos do not lead with one B.
        TensorTypeError: the model has no `get_cost`.

    Example:
        >>> import torch, diffplan as dp
        >>> class Near:
        ...     def get_cost(self, info_dict, action_candidates):
        ...         reached = action_candidates.sum(-2)
        ...         return (info_dict["goal"] - reached).square().sum(-1)
        >>> infos = {"goal": torch.tensor([[0.5], [-0.9]])}
        >>> problem, state = planning_problem(Near(), infos, dp.Box([-1.0], [1.0]))
        >>> plan = dp.ShootingGD(horizon=2, iterations=200)(problem, state)
        >>> plan.actions.sum(-2).round(decimals=1).squeeze(-1).tolist()
        [0.5, -0.8999999761581421]
    """
    cost = TrajectoryCost(model, infos, batch_size)
    wide = torch.float64 if cost.like.dtype == torch.float64 else torch.float32
    state = torch.arange(cost.batch_size, device=cost.like.device, dtype=wide)
    return PlanningProblem(_stay, cost, action_space), state[:, None]


def _stay(state: Tensor, action: Tensor) -> Tensor:  # noqa: ARG001
    """Dynamics of a state that only says which situation it is."""
    return state


def leads(value: Any, batch: int) -> bool:
    """Return whether there is an entry for each situation."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    return isinstance(value, list | tuple) and len(value) == batch


def situations(infos: Infos, given: int | None, default: int | None = None) -> int:
    """Return how many situations there are, which all tensors and arrays lead with."""
    sizes = {
        name: len(value)
        for name, value in infos.items()
        if isinstance(value, Tensor | np.ndarray) and value.ndim > 0
    }
    lists = [len(value) for value in infos.values() if isinstance(value, list | tuple)]
    found = [*sizes.values(), *lists, *(() if default is None else (default,))]
    batch = found[0] if given is None and found else given
    if batch is None:
        raise ShapeError("infos: expected tensors that lead with a batch, got none")
    for name, size in sizes.items():
        if size != batch:
            raise ShapeError(
                f"infos[{name!r}]: expected {batch} situations, as others have, got "
                f"{size}"
            )
    return batch


def _repeated(value: Any, number: Tensor | None, samples: int, batch: int) -> Any:
    """Return the entries of some situations, once for each candidate.

    Args:
        value: Of one name.
        number: Of the situations `[B']`; None stands for all in their order.
        samples: S.
        batch: B.
    """
    if not leads(value, batch):
        return value
    if isinstance(value, Tensor):
        chosen = value if number is None else value[number]
        return chosen.unsqueeze(1).expand(-1, samples, *value.shape[1:])
    index = range(batch) if number is None else number.tolist()
    if isinstance(value, np.ndarray):
        return np.repeat(value[list(index), None], samples, axis=1)
    return [value[place] for place in index]
