"""Newton's method on a trajectory: the exact Hessian of a plan's cost as a regulator.

The cost of actions, rolled out, has a dense Hessian in all actions together. In states,
actions and costates it is the linear-quadratic problem of the Lagrangian

    L(x, u, λ) = cost(x, u) + Σ_t λ_{t+1}'(f(x_t, u_t) - x_{t+1})

about the trajectory: with the second derivatives of cost *and* dynamics in its blocks,
its regulator is the exact Newton step, its factor says whether the Hessian is positive
definite, and solving with other right-hand sides is what the implicit-function theorem
asks for. Nothing that is differentiated is a recursion: gradients of the Lagrangian are
taken at all steps at once, and the regulator is a layer with an adjoint of its own.

For states of few numbers, since curvature is expanded for n = A + S directions.

Symbols: z = (u, x) of one step, n numbers; g derivative of the cost by the actions.

References:
    Dunn and Bertsekas 1989, "Efficient dynamic programming implementations of Newton's
    method for unconstrained optimal control problems" (JOTA 63); Amos et al. 2018,
    "Differentiable MPC for end-to-end planning and control" (arXiv:1810.13400),
    section 4, whose linear-quadratic model has no second derivatives of the dynamics.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan.functional._chain import times
from diffplan.functional._condensed import CondensedFactor, is_short
from diffplan.functional._conjugate_gradients import LinearSolution
from diffplan.functional._derivatives import constants, is_followed
from diffplan.functional._lqr_kkt import Vectors
from diffplan.functional.box_lqr import IncrementalLQR
from diffplan.functional.linearize import batched_jacobian
from diffplan.functional.lqr import LQRFactor, LQRProblem, lqr_factorize
from diffplan.gradients import Implicit
from diffplan.planners._quadratic_model import quadratic_model, regulator
from diffplan.problem import PlanningProblem
from diffplan.solvers._stationary import Minimum, free_variables


class Extremal(NamedTuple):
    """A trajectory with its costates.

    Attributes:
        states: x_0 … x_T, `[B, T+1, S]`.
        actions: u_0 … u_{T-1}, `[B, T, A]`.
        costates: λ_1 … λ_T, `[B, T, S]`.
    """

    states: Tensor
    actions: Tensor
    costates: Tensor


@dataclass(frozen=True)
class ActionCost:
    """The cost of actions `[B, T·A]`, rolled out from given states; see `Smooth`.

    Attributes:
        problem: Its objective has stages.
        state: `[B, S]`; may carry a graph.
        shape: B, T, A.
        strategy: Tolerances and limits.
        low: `[B, T·A]`; may carry a graph.
        high: `[B, T·A]`; likewise.
    """

    problem: PlanningProblem
    state: Tensor
    shape: torch.Size
    strategy: Implicit
    low: Tensor
    high: Tensor

    def cost(self, variables: Tensor) -> Tensor:
        """Return F `[B]`."""
        return self.problem.cost(self.state, variables.view(self.shape))

    def local(self, variables: Tensor) -> "Expansion":
        """Return the expansion about actions `[B, T·A]`."""
        with constants():
            return Expansion(self, variables.view(self.shape))

    def differentiable(
        self, minimum: Minimum
    ) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Return the minimum `[B, T, A]`, a function of problem, state and bounds.

        And the tensors that it depends on, for a refusal; and where the systems that
        give it its derivative could be solved, `[B]` bool.

        One Newton step from a constant has the right first derivative; a step from
        there has the right second one, as Newton's method doubles what is right.

        Args:
            minimum: From `polish`.
        """
        local = minimum.local
        assert isinstance(local, Expansion)
        free = local.free.view(self.shape)
        point, blocks, factor = local.point, local.blocks, local.factor
        depends: list[Tensor] = []
        ok = torch.ones_like(minimum.sound)
        for order in range(1, self.strategy.order + 1):
            if order > 1:
                blocks = _blocks(self.problem, point)
                factor = _held(blocks, free)
            residual = _residual(self.problem, self.state, point)
            depends += residual
            if is_followed(self.low, self.high):
                moves = self._moves(point.actions, free)
                residual = _moved(residual, blocks.unpacked(), moves, free)
            else:
                residual = residual._replace(
                    action_linear=residual.action_linear * free
                )
            if isinstance(factor, CondensedFactor):
                actions, found_ok = factor.solve(residual)
                actions = point.actions + (actions - actions.detach())
                return actions, tuple(depends), ok & found_ok
            found = factor.solve(*residual)
            ok = ok & found.ok
            steps = (found.states, found.actions, found.costates)
            # the value stays where it was polished to, inside the bounds exactly
            point = Extremal(
                *(at + (s - s.detach()) for at, s in zip(point, steps, strict=True))
            )
        return point.actions, tuple(depends), ok

    def _moves(self, actions: Tensor, free: Tensor) -> Tensor:
        """Return how held actions follow their bounds: zero, with the bounds' graph."""
        low, high = (bound.view(self.shape) for bound in (self.low, self.high))
        held = torch.where(actions <= low, low, high)
        # masked before the difference: an open side is infinite
        return torch.where(free > 0, actions, held) - actions


class Expansion:
    """The second-order expansion about a rollout, factored; see `Local`.

    Attributes:
        point: The rollout with its costates, constants.
        blocks: Of the regulator's increments, before any action is held.
        gradient: ∇F `[B, T·A]`.
        free: `[B, T·A]`.
        factor: Of the regulator with only the free actions; without the states where
            actions are few, and nobody asks for more than actions.
    """

    def __init__(self, cost: ActionCost, actions: Tensor) -> None:
        problem, state = cost.problem, cost.state.detach()
        states = problem.rollout(state, actions)
        model, _ = quadratic_model(problem, states, actions, gauss_newton=False)
        costates = model.costates()
        self.problem = problem
        self.point = Extremal(states, actions, costates)
        self.gradient = model.slope(costates).flatten(1)
        self.free = free_variables(
            actions.flatten(1), self.gradient, cost.low, cost.high
        )
        self.blocks = _with_dynamics(model, problem, self.point)
        self.factor: LQRFactor | CondensedFactor
        short = is_short(self.free.shape[1], affine=problem.is_affine)
        if cost.strategy.order == 1 and short:
            self.factor = CondensedFactor(self.blocks, self.free > 0)
        else:
            self.factor = _held(self.blocks, self.free.view(actions.shape))

    def solve(self, rhs: Tensor) -> LinearSolution:
        """Solve with the exact Hessian; see `Local`."""
        with constants():
            if isinstance(self.factor, CondensedFactor):
                column, ok = self.factor.inverse((rhs * self.free).unsqueeze(-1))
                return LinearSolution(column.squeeze(-1), ok, ok, 1)
            states, actions = self.point.states, self.point.actions
            zeros = torch.zeros_like(states)
            linear = -(rhs * self.free).view(actions.shape)
            found = self.factor.solve(zeros, linear, zeros[:, 1:], zeros[:, 0])
        return LinearSolution(found.actions.flatten(1), found.ok, found.ok, 1)

    def descend(self, slope: Tensor) -> Tensor:
        """Solve with the curvature that is left without that of the dynamics."""
        with constants():
            return regulator(self.problem, self.point.states, self.point.actions)(slope)


def _residual(problem: PlanningProblem, state: Tensor, point: Extremal) -> Vectors:
    """Differentiate the Lagrangian at a point: what a Newton step takes to zero.

    With the graph of everything.
    """

    def lagrangian(states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        times = problem.times(0, actions.shape[1], states)
        defect = problem.step(states[:, :-1], actions, times) - states[:, 1:]
        pull = (point.costates * defect).sum()
        return problem.trajectory_cost(states, actions).sum() + pull, defect

    differentiate = torch.func.grad(lagrangian, argnums=(0, 1), has_aux=True)
    (by_state, by_action), defect = differentiate(point.states, point.actions)
    return Vectors(by_state, by_action, defect, state - point.states[:, 0])


def _moved(
    residual: Vectors, blocks: LQRProblem, moves: Tensor, free: Tensor
) -> Vectors:
    """Let held actions move by `moves`: their effect on all other equations."""
    push = times(moves, blocks.cross_cost)
    state_linear = residual.state_linear[:, :-1] + push
    last = residual.state_linear[:, -1:]
    linear = residual.action_linear + times(moves, blocks.action_cost)
    return Vectors(
        torch.cat((state_linear, last), 1),
        linear * free - moves,
        residual.offset + times(moves, blocks.action_jacobian.mT),
        residual.initial_state,
    )


def _blocks(problem: PlanningProblem, point: Extremal) -> IncrementalLQR:
    """Return the blocks at a point with a graph, themselves with a graph."""
    states, actions, _ = point
    model, _ = quadratic_model(problem, states, actions, gauss_newton=False)
    return _with_dynamics(model, problem, point)


def _with_dynamics(
    model: IncrementalLQR, problem: PlanningProblem, point: Extremal
) -> IncrementalLQR:
    """Add the second derivatives of λ'f to those of the costs."""
    if problem.is_affine:
        return model
    width = point.actions.shape[-1]

    def pushed(points: Tensor) -> Tensor:
        times = problem.times(0, points.shape[-2], points)
        following = problem.step(points[..., width:], points[..., :width], times)
        return (point.costates * following).sum()

    points = torch.cat((point.actions, point.states[:, :-1]), -1)
    _, (bend,) = batched_jacobian(torch.func.grad(pushed), points)
    return model._replace(hessian=model.hessian + bend)


def _held(model: IncrementalLQR, free: Tensor) -> LQRFactor:
    """Factor the blocks; actions that are not free answer to nothing."""
    blocks = model.unpacked()
    if bool(free.all()):
        return lqr_factorize(blocks)
    rows, columns = free.unsqueeze(-1), free.unsqueeze(-2)
    return lqr_factorize(
        blocks._replace(
            action_cost=rows * blocks.action_cost * columns
            + torch.diag_embed(1 - free),
            cross_cost=rows * blocks.cross_cost,
            action_jacobian=blocks.action_jacobian * columns,
        )
    )
