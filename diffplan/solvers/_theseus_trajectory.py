"""Theseus' Levenberg-Marquardt on a whole trajectory as one variable.

Theseus spends its time on bookkeeping per variable and per cost. Here the trajectory is
one `th.Vector` and all residuals are one `th.CostFunction` that knows its own blocks; a
`Linearization` fetches the blocks and a `LinearSolver` hands them to one of our chain
solvers. Theseus keeps what it is for: the loop, the steps and their graph.

`theseus_levenberg_marquardt` takes the arguments of
`solvers.least_squares.levenberg_marquardt` with fixed damping and gives the same
iterates.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan.errors import ArgumentError, UnsupportedGradientError
from diffplan.functional._derivatives import inside_transform
from diffplan.solvers._least_squares import (
    FixedDamping,
    Layout,
    Linearize,
    Report,
    Trajectory,
    levenberg_marquardt,
    more_damping,
)
from diffplan.solvers._theseus_import import LinearSolver, th
from diffplan.solvers.blocks import ChainBlocks, ChainSolver


@dataclass(frozen=True)
class _Linearized:
    """Blocks at one tensor, and the carry after handing them out."""

    vector: Tensor
    blocks: ChainBlocks
    carry: Any


class TrajectoryCost(th.CostFunction):
    """All residuals of a trajectory as one cost that knows its blocks.

    Theseus asks for the error right after a step and for the linearisation at the start
    of the next iteration, both at the same tensor: one linearisation serves both, and
    the carry advances once per step. After the last step nobody needs the blocks, so
    that Theseus, which only reports the error there, gets the one before.
    """

    def __init__(
        self,
        variable: th.Vector,
        layout: Layout,
        linearize: Linearize[Any],
        carry: Any,
        damping: Tensor,
        steps: int,
    ) -> None:
        weight = th.ScaleCostWeight(torch.ones(1, 1, dtype=variable.dtype))
        super().__init__(weight, name="trajectory_cost")
        self.trajectory = variable
        self.register_optim_vars(["trajectory"])
        self.layout = layout
        self.linearize = linearize
        self.carry = carry  # as of the last step that was taken
        self.damping = damping
        self.steps_left = steps
        self.needs_graph = torch.is_grad_enabled()
        self._last: _Linearized | None = None
        self.rows = self.error().shape[1]

    def current(self) -> _Linearized:
        """Return blocks at the variable's tensor, linearising only if it is new."""
        vector, last = self.trajectory.tensor, self._last
        if last is None or (last.vector is not vector and self.steps_left):
            # Theseus evaluates the first error without a graph; this linearisation
            # is also the first step's and must have one.
            with torch.set_grad_enabled(self.needs_graph):
                blocks, carry = self.linearize(
                    self.layout.unflatten(vector), self.carry, self.damping
                )
            last = self._last = _Linearized(vector, blocks, carry)
        return last

    def step_taken(self, damping: Tensor) -> None:
        """Advance the carry: the blocks of the current iterate have been used."""
        self.carry = self.current().carry
        self.damping = damping
        self.steps_left -= 1

    def error(self) -> Tensor:
        """Return all weighted residuals `[B, rows]`."""
        return _weighted_residuals(self.current().blocks)

    def jacobians(self) -> tuple[list[Tensor], Tensor]:
        """Refuse: the blocks are handed out instead, see `_BlockLinearization`."""
        raise NotImplementedError("a TrajectoryCost hands out blocks, no Jacobian")

    def dim(self) -> int:
        """Return the number of residuals."""
        return self.rows

    def _copy_impl(self, new_name: str | None = None) -> "TrajectoryCost":
        raise NotImplementedError(f"a TrajectoryCost cannot be copied ({new_name})")


class _BlockLinearization(th.optimizer.Linearization):
    """Fetches the blocks; never forms a matrix."""

    def __init__(self, objective: th.Objective, cost: TrajectoryCost) -> None:
        super().__init__(objective)
        self.cost = cost

    def _linearize_jacobian_impl(self) -> None:
        self.cost.current()

    def _linearize_hessian_impl(self, _detach_hessian: bool = False) -> None:
        if _detach_hessian:
            raise NotImplementedError(
                "backward_mode: Theseus' IMPLICIT and DLM differentiate a Gauss-Newton "
                "step, which is wrong where residuals do not vanish; use UNROLL"
            )
        self.cost.current()

    def _ata_impl(self) -> Tensor:
        raise NotImplementedError("blocks are never assembled into AtA")

    def _atb_impl(self) -> Tensor:
        raise NotImplementedError("blocks are never assembled into Atb")

    def Av(self, v: Tensor) -> Tensor:
        """Refuse: only dogleg asks for it."""
        raise NotImplementedError(f"no product with J is offered, got {v.shape}")

    def diagonal_scaling(self, v: Tensor) -> Tensor:
        """Refuse: only ellipsoidal damping asks for it."""
        raise NotImplementedError(f"no ellipsoidal damping is offered, got {v.shape}")


class _BlockSolver(LinearSolver):
    """Hands the blocks to a chain solver; a step that is unsound is not taken."""

    def __init__(
        self,
        objective: th.Objective,
        linearization_cls: type | None = None,
        linearization_kwargs: dict[str, Any] | None = None,
        *,
        cost: TrajectoryCost,
        solver: ChainSolver,
        fixed_damping: FixedDamping,
    ) -> None:
        super().__init__(
            objective, linearization_cls or _BlockLinearization, linearization_kwargs
        )
        self.cost = cost
        self.solver = solver
        self.fixed_damping = fixed_damping
        self.report: Report | None = None

    def solve(self, damping: float | Tensor | None = None, **_: object) -> Tensor:
        """Return the increment of the trajectory `[B, T (S + A)]`.

        The damping is in the blocks already; Theseus' own is not used.
        """
        del damping
        current = self.cost.current()
        step = self.solver(current.blocks)
        delta = self.cost.layout.flatten(step.states, step.actions)
        finite = torch.isfinite(current.vector + delta).all(dim=1)
        sound = step.ok & finite
        self.cost.step_taken(
            more_damping(self.fixed_damping.value, self.cost.damping, ~step.ok)
        )
        self.report = Report(
            failed=~step.ok,
            non_finite=~finite | (self.report.non_finite if self.report else False),
            step_norm=delta.detach().norm(dim=1),
            damping=self.cost.damping,
        )
        return torch.where(sound[:, None], delta, torch.zeros_like(delta))


def theseus_levenberg_marquardt(
    linearize: Linearize[Any],
    start: Trajectory,
    carry: Any,
    *,
    iterations: int,
    damping: FixedDamping,
    solver: ChainSolver,
    cost: Callable[[Trajectory, Any], Tensor] | None = None,  # noqa: ARG001
) -> tuple[Trajectory, Any, Report]:
    """Run `levenberg_marquardt` with Theseus in the driver's seat.

    Args:
        linearize: `(trajectory, carry, damping) → (blocks, carry)`.
        start: Where to begin.
        carry: What `linearize` threads.
        iterations: Number of steps, at least 0.
        damping: Fixed; every step is taken in full.
        solver: Turns blocks into a step.
        cost: Not used with fixed damping.

    Returns:
        The last trajectory, the last carry, and a report.

    Raises:
        ArgumentError: damping is adaptive, or `iterations` is negative.
        UnsupportedGradientError: this runs inside a transform of `torch.func`, whose
            tensors Theseus cannot read.
    """
    iterations = require_count("iterations", iterations, 0)
    if inside_transform():
        raise UnsupportedGradientError(
            "gradient: Theseus cannot run inside torch.func (vmap, grad, jvp, …); use "
            'engine="native", which takes the same steps'
        )
    if not isinstance(damping, FixedDamping):
        raise ArgumentError(
            f"damping: the theseus engine takes FixedDamping, got {damping!r}"
        )
    if iterations == 0 or not start.states.shape[0]:
        # nothing to iterate, or nobody: Theseus takes no empty batch
        return levenberg_marquardt(
            linearize,
            start,
            carry,
            iterations=iterations,
            damping=damping,
            solver=solver,
        )
    layout = Layout(start)
    amount = damping.start(start.states[:, 0, 0].detach())
    vector = layout.flatten(start.states, start.actions)
    variable = th.Vector(tensor=vector, name="trajectory")
    residuals = TrajectoryCost(variable, layout, linearize, carry, amount, iterations)
    objective = th.Objective(dtype=vector.dtype)
    objective.add(residuals)
    objective.to(vector.device)
    optimizer = th.LevenbergMarquardt(
        objective,
        linear_solver_cls=_BlockSolver,
        linearization_cls=_BlockLinearization,
        linearization_kwargs={"cost": residuals},
        linear_solver_kwargs={
            "cost": residuals,
            "solver": solver,
            "fixed_damping": damping,
        },
        max_iterations=iterations,
        # The iteration count is fixed: one element's convergence must not stop others.
        abs_err_tolerance=0.0,
        rel_err_tolerance=0.0,
        step_size=1.0,
        vectorize=False,  # there is one cost, nothing to group
    )
    objective.update({"trajectory": vector})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Vectorization is off by default")
        # Theseus converts tensors in a way that numpy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__ implementation")
        optimizer.optimize(backward_mode="unroll")
    report = optimizer.linear_solver.report
    return layout.unflatten(variable.tensor), residuals.carry, report


def _weighted_residuals(blocks: ChainBlocks) -> Tensor:
    """Return all residuals with the square roots of their weights, `[B, rows]`."""
    dynamics = blocks.transition_weight.sqrt()[..., None] * blocks.defect
    limits = blocks.limit_weight.sqrt()[..., None] * blocks.limit_residual
    parts = [dynamics, blocks.residual, limits, blocks.terminal_residual]
    return torch.cat([part.flatten(1) for part in parts], dim=1)
