"""Is the gradient of a planner right? Compare it with finite differences.

Derivatives are compared along random directions: one number per direction and tensor,
whatever their size, so that the check costs a few plans and not one per parameter.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan.errors import ArgumentError, DiffplanError
from diffplan.gradients import Detach
from diffplan.plan import Plan
from diffplan.planners.base import Planner
from diffplan.problem import PlanningProblem


@dataclass(frozen=True)
class GradientRow:
    """One directional derivative, by the layer and by finite differences.

    Attributes:
        name: The tensor that was moved.
        order: 1, or 2 for the derivative of a derivative.
        layer: What backward gives, or forward mode.
        difference: What central differences give.
        tolerance: Largest error that passes.
    """

    name: str
    order: int
    layer: float
    difference: float
    tolerance: float

    @property
    def error(self) -> float:
        """`|layer - difference| / (1 + |difference|)`."""
        return abs(self.layer - self.difference) / (1 + abs(self.difference))

    @property
    def right(self) -> bool:
        """Return whether the two agree; NaN never does."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class GradientReport:
    """All comparisons of one check; prints as a table.

    Attributes:
        title: What was checked.
        rows: One per tensor, direction and order; and one of the state in forward
            mode (`torch.func.jvp`), where the planner has one.
    """

    title: str
    rows: tuple[GradientRow, ...]

    @property
    def right(self) -> bool:
        """Return whether all agree."""
        return all(row.right for row in self.rows)

    @property
    def largest_error(self) -> float:
        """Of all rows."""
        return max(row.error for row in self.rows)

    def __str__(self) -> str:
        """Return a table, one line per comparison."""
        lines = [
            self.title,
            f"{'with respect to':<28} {'order':>5} {'layer':>15} "
            f"{'differences':>15} {'error':>9}",
        ]
        for row in self.rows:
            verdict = "" if row.right else f"  wrong: above {row.tolerance:g}"
            lines.append(
                f"{row.name:<28} {row.order:>5} {row.layer:>15.7g} "
                f"{row.difference:>15.7g} {row.error:>9.1e}{verdict}"
            )
        return "\n".join(lines)


def check_gradients(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    wrt: Mapping[str, Tensor] | None = None,
    *,
    warm_start: Plan | None = None,
    order: int = 1,
    directions: int = 2,
    step: float = 1e-6,
    tolerance: float = 1e-5,
    seed: int = 0,
    verbose: bool = True,
) -> GradientReport:
    """Compare the gradient of a plan with central finite differences of the planner.

    A random weighting of the planned actions is differentiated in random directions.
    The differences are those of the whole planner with the same noise, so `Unroll()`
    must agree with them always, `Implicit()` and `Truncated(k)` where the plan has
    converged. LatCo's own multiplier rule is an exception: its multipliers move with
    the tensors, and `Implicit()`, which holds them fixed, is refused here, often by
    tens of percent. With `MethodOfMultipliers` it agrees.

    Args:
        planner: Any planner; not with `Detach()`, whose actions are constants.
        problem: What to plan, in float64.
        state: Start states `[…, S]`.
        wrt: Tensors by name that the plan depends on: leaves that require a gradient
            (parameters of dynamics, objective or planner, bounds). They are moved in
            place and put back. None stands for all parameters of the planner and of
            dynamics and objective where these are modules. The state always is added,
            under the name "state".
        warm_start: As for the planner.
        order: 1, or 2 to check the derivative of the gradient as well.
        directions: Random directions per tensor, at least 1.
        step: Of the differences, relative to nothing: 1e-6 suits numbers near one.
        tolerance: Largest `|layer - difference| / (1 + |difference|)`.
        seed: Of weighting and directions.
        verbose: Print the table.

    Returns:
        The report; `str(report)` is the table.

    Raises:
        AssertionError: a derivative is wrong, and the table is in the message; or the
            plan has no graph, although the planner declares a gradient.
        ArgumentError: the problem is not in float64, a tensor is no leaf, `wrt` holds
            the state, `order` or `directions` is out of range, or the plan is a
            constant, as it is with `Detach()`.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1).double()),
        ...     action_space=dp.Box([-1.0], [1.0]),
        ... )
        >>> planner = dp.GradMPC(2, iterations=3, num_starts=2)
        >>> start = torch.zeros(1).double()
        >>> check_gradients(planner, problem, start, verbose=False).right
        True
    """
    if require_count("order", order) > 2:
        raise ArgumentError(f"order: expected 1 or 2, got {order}")
    require_count("directions", directions)
    require_positive("step", step)
    tensors = _moving(planner, problem, state, wrt)
    state = tensors["state"]
    generator = torch.Generator().manual_seed(seed)
    weights: list[Tensor] = []

    def weighted(start: Tensor = state) -> Tensor:
        plan = planner(problem, start, warm_start=warm_start)
        if not weights:
            if not plan.actions.requires_grad:
                _refuse_constant(planner)
            weights.append(_normal(plan.actions, generator))
        return (weights[0] * plan.actions).sum()

    compare = _Comparison(tensors, generator, directions, step, tolerance)
    rows = compare.first(weighted)
    if order > 1:
        rows += compare.second(weighted)
    rows += compare.forward(weighted)
    report = GradientReport(
        f"{type(planner).__name__}, gradient={planner.gradient}", tuple(rows)
    )
    if verbose:
        sys.stdout.write(f"{report}\n")
    if not report.right:
        raise AssertionError(f"a gradient is wrong\n{report}")
    return report


@dataclass(frozen=True)
class _Comparison:
    """Directional derivatives of a scalar, by autograd and by central differences."""

    tensors: Mapping[str, Tensor]
    generator: torch.Generator
    directions: int
    step: float
    tolerance: float

    def first(self, function: Callable[[], Tensor]) -> list[GradientRow]:
        gradients = self._gradients(function(), create_graph=False)
        rows = []
        for (name, tensor), gradient in zip(
            self.tensors.items(), gradients, strict=True
        ):
            for _ in range(self.directions):
                direction = self._direction(tensor)
                difference = self._difference(tensor, direction, function)
                layer = float((gradient * direction).sum())
                rows.append(GradientRow(name, 1, layer, difference, self.tolerance))
        return rows

    def second(self, function: Callable[[], Tensor]) -> list[GradientRow]:
        towards = [self._direction(tensor) for tensor in self.tensors.values()]

        def slope() -> Tensor:
            with torch.enable_grad():
                gradients = self._gradients(function(), create_graph=True)
                return sum(
                    ((g * d).sum() for g, d in zip(gradients, towards, strict=True)),
                    torch.zeros((), dtype=torch.float64),
                )

        value = slope()
        if not value.requires_grad:
            value = value + 0 * sum(t.sum() for t in self.tensors.values())
        gradients = self._gradients(value, create_graph=False)
        rows = []
        for (name, tensor), gradient in zip(
            self.tensors.items(), gradients, strict=True
        ):
            direction = self._direction(tensor)
            difference = self._difference(tensor, direction, slope)
            layer = float((gradient * direction).sum())
            rows.append(GradientRow(name, 2, layer, difference, self.tolerance))
        return rows

    def forward(self, function: Callable[..., Tensor]) -> list[GradientRow]:
        """Look at forward mode by the state; no row where something has none."""
        state = self.tensors["state"]
        direction = self._direction(state)
        try:
            layer = torch.func.jvp(function, (state.detach(),), (direction,))[1]
        except (DiffplanError, RuntimeError):
            return []
        difference = self._difference(state, direction, function)
        name = "state, in forward mode"
        return [GradientRow(name, 1, float(layer.detach()), difference, self.tolerance)]

    def _gradients(self, value: Tensor, *, create_graph: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            value,
            list(self.tensors.values()),
            create_graph=create_graph,
            materialize_grads=True,
        )

    def _direction(self, like: Tensor) -> Tensor:
        direction = _normal(like, self.generator)
        return direction / direction.norm()

    def _difference(
        self, tensor: Tensor, direction: Tensor, function: Callable[[], Tensor]
    ) -> float:
        """Return the central difference of a function along a direction."""
        ahead, behind = (
            self._moved(tensor, sign * direction, function) for sign in (1.0, -1.0)
        )
        return (ahead - behind) / (2 * self.step)

    def _moved(
        self, tensor: Tensor, direction: Tensor, function: Callable[[], Tensor]
    ) -> float:
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.add_(self.step * direction)
        try:
            return float(function().detach())
        finally:
            with torch.no_grad():
                tensor.copy_(kept)


def _moving(
    planner: Planner,
    problem: PlanningProblem,
    state: Tensor,
    wrt: Mapping[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Return the tensors to move by name, a copy of the state among them."""
    parameters = _parameters(planner, problem)
    given = parameters if wrt is None else wrt
    for name, tensor in given.items():
        if name == "state" or tensor is state:
            raise ArgumentError(
                f"wrt[{name!r}]: expected no state, which always is added: leave it out"
            )
    for name, tensor in {"state": state, **parameters, **given}.items():
        if tensor.dtype != torch.float64:
            raise ArgumentError(
                f"{name}: differences need float64, got {tensor.dtype}: call .double() "
                "on state, models and bounds"
            )
    for name, tensor in given.items():
        if not (tensor.is_leaf and tensor.requires_grad):
            raise ArgumentError(
                f"wrt[{name!r}]: expected a leaf tensor that requires a gradient, got "
                f"requires_grad={tensor.requires_grad}, is_leaf={tensor.is_leaf}"
            )
    return {"state": state.detach().clone().requires_grad_(), **given}


def _parameters(planner: Planner, problem: PlanningProblem) -> dict[str, Tensor]:
    own = {f"planner.{name}": value for name, value in planner.named_parameters()}
    found = {**own, **dict(problem.named_parameters())}
    return {name: value for name, value in found.items() if value.requires_grad}


def _refuse_constant(planner: Planner) -> NoReturn:
    if isinstance(planner.gradient, Detach):
        raise ArgumentError(
            f"planner: expected a gradient to check, got gradient={planner.gradient}, "
            "with which actions are constants"
        )
    raise AssertionError(
        f"plan.actions has no graph although gradient={planner.gradient}"
    )


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like)
