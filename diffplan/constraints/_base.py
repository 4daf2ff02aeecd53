"""Constraints on actions: convex sets that the action of every time step lies in.

`PlanningProblem.project` brings actions to the nearest point of the box and of all of
its constraints, and every planner projects through it: what it tries, and its answer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import is_traced
from diffplan.errors import ArgumentError, TensorTypeError
from diffplan.functional._projections import project_intersection
from diffplan.functional.linearize import batched_jacobian


class ActionConstraint(ABC):
    """A closed convex set of actions, the same at every time step.

    A subclass defines `project`, by differentiable operations. What else there is
    follows from it; a set that knows better overrides it: `excess` where collocation,
    which linearises it, shall see a simple function, `project_within` where the nearest
    point inside a box is known.
    """

    size: Tensor | float = 1.0
    """How large the numbers are; `contains` forgives tolerance · max(1, size)."""

    @abstractmethod
    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the set, same shape `[…, A]`."""

    def excess(self, actions: Tensor) -> Tensor:
        """Return how far actions `[…, A]` lie outside, in K numbers `[…, K]`.

        All are zero inside; default: the way to the nearest allowed action.
        """
        return self.beyond_rounding(actions - self.project(actions))

    def linearized_excess(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the excess and a Jacobian J, for planners that linearise it.

        What counts is that Jᵀ excess is the gradient of ½‖excess‖² and JᵀJ close to its
        Hessian. Default: the Jacobian of `excess`, which is exact for flat sides; a set
        with curved ones may add rows of zero excess that know the curvature.

        Args:
            actions: `[…, A]`.

        Returns:
            `[…, K]` and `[…, K, A]`.
        """
        value, (jacobian,) = batched_jacobian(self.excess, actions)
        return value, jacobian

    def beyond_rounding(self, excess: Tensor) -> Tensor:
        """Return `excess` with what is mere rounding set to zero.

        Projected actions are on the boundary up to rounding, and on which side they
        fell must not decide whether a constraint counts as active.
        """
        size = torch.as_tensor(self.size).to(excess).clamp_min(1)
        rounding = 16 * torch.finfo(excess.dtype).eps * size
        return torch.where(excess.abs() > rounding, excess, torch.zeros_like(excess))

    def contains(self, actions: Tensor, tolerance: float | None = None) -> Tensor:
        """Return where actions `[…, A]` lie inside the set; booleans `[…]`.

        Args:
            actions: `[…, A]`.
            tolerance: Largest number of `excess`, over max(1, size), that counts as
                inside; None stands for `default_tolerance(actions)`.
        """
        if tolerance is None:
            tolerance = default_tolerance(actions)
        size = torch.as_tensor(self.size).to(actions).clamp_min(1)
        return (self.excess(actions).abs() <= tolerance * size).all(dim=-1)

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest actions inside the set and inside a box.

        Args:
            actions: `[…, A]`.
            low: Lower bounds `[A]`, kept exactly.
            high: Upper bounds `[A]`, kept exactly.
        """
        box = partial(torch.clamp, min=low, max=high)
        return project_intersection(actions, [self.project, box])

    def check_dim(self, name: str, dim: int) -> None:  # noqa: B027 - optional
        """Raise a `ShapeError` if this is no set of actions of size `dim`.

        Args:
            name: What messages call this constraint.
            dim: A.
        """


def default_tolerance(actions: Tensor) -> float:
    """Return 1e-6 in float64, 1e-5 in float32 and 1e-2 in less."""
    if actions.dtype == torch.float64:
        return 1e-6
    return 1e-5 if actions.dtype == torch.float32 else 1e-2


def as_tensor(name: str, value: Tensor | float | Sequence[Any]) -> Tensor:
    """Return a finite floating-point tensor; a given one keeps its graph.

    Args:
        name: The argument's name, for the message.
        value: A tensor, or numbers.

    Raises:
        TensorTypeError: it is no tensor of real numbers, and cannot be made one.
        ArgumentError: a number is NaN or infinite.
    """
    if isinstance(value, Tensor) and value.is_complex():
        raise TensorTypeError(f"{name}: expected real numbers, got {value.dtype}")
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        try:
            value = torch.as_tensor(value, dtype=torch.float64)  # exact as a number
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise TensorTypeError(
                f"{name}: expected a tensor or numbers, got {value!r}"
            ) from error
    if not is_traced(value) and not torch.isfinite(value).all():
        raise ArgumentError(f"{name}: expected finite numbers, got {value.tolist()}")
    return value


def require_above_zero(name: str, value: Tensor) -> Tensor:
    """Return a scalar tensor above zero, else raise.

    Raises:
        ArgumentError: it is no scalar, or not above zero.
    """
    if value.ndim != 0:
        raise ArgumentError(f"{name}: expected one number, got {list(value.shape)}")
    if not is_traced(value) and not value > 0:
        raise ArgumentError(f"{name}: expected a number above 0, got {float(value)}")
    return value
