"""Problems with random dynamics: particles, common random numbers, risk.

A stochastic problem draws its noise once per plan, before anything is optimised, and
every candidate and every iteration sees the same numbers. The expected (or risky) cost
becomes a deterministic function of the actions, the sample average over P particles,
whose gradient passes through the particles by reparameterisation,

    x^p_{t+1} = mean(x^p_t, u_t) + std(x^p_t, u_t) ε^p_t,   ε^p_t ~ N(0, 1) fixed,

so that differences between candidates are differences between plans and not luck.
`common_noise=False` gives that up: each candidate draws anew in each iteration, as in
algorithm 1 of Grad-MPC, and a descent follows the expected cost by noisy gradients.

References:
    Kleywegt et al. 2002, "The sample average approximation method for stochastic
    discrete optimization"; Rockafellar and Uryasev 2000, "Optimization of conditional
    value-at-risk".
"""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from diffplan._checked_model import predicted
from diffplan._checks import describe, require_count, require_positive, require_share
from diffplan._kinds import check_public
from diffplan._segments import takes_time
from diffplan._user_functions import ask
from diffplan.capabilities import model_behind
from diffplan.constraints._base import ActionConstraint
from diffplan.constraints._box import BoxLike
from diffplan.constraints.state import StateConstraint
from diffplan.errors import ShapeError, TensorTypeError, UnsupportedProblemError
from diffplan.functional._isolation import StandIns, guarded_evaluation
from diffplan.functional._random import fold, standard_normal, stream_keys
from diffplan.functional._rollout import rollout
from diffplan.problem import Objective, PlanningProblem, Predictable

RiskMeasure = Callable[[Tensor], Tensor]
"""`costs of particles […, P] → cost […]`, differentiable almost everywhere."""

_PARTICLES = -1
"""Folded into the keys of the dynamics' noise, which is not a planner's own."""


@dataclass(frozen=True)
class Mean:
    """The average cost of all particles.

    Example:
        >>> import torch
        >>> Mean()(torch.tensor([1.0, 2.0, 6.0]))
        tensor(3.)
    """

    def __call__(self, costs: Tensor) -> Tensor:
        """Return the mean `[…]` of `costs` `[…, P]`."""
        return costs.mean(dim=-1)


@dataclass(frozen=True)
class CVaR:
    """The conditional value at risk: the mean cost of the worst share of particles.

    With αP not a whole number the last particle counts by the fraction that is left,
    which makes it the CVaR of the P particles as a distribution: the minimum over t of
    t + mean(max(0, cost - t)) / α.

    Attributes:
        alpha: α, the share, above 0 and at most 1; 1 is the mean, 0.1 looks at the
            worst tenth.

    Raises:
        ArgumentError: `alpha` is out of range.

    Example:
        >>> import torch
        >>> CVaR(0.5)(torch.tensor([1.0, 2.0, 6.0]))  # (6 + ½ · 2) / 1.5
        tensor(4.6667)
    """

    alpha: float

    def __post_init__(self) -> None:
        require_positive("alpha", self.alpha)
        require_share("alpha", self.alpha)

    def __call__(self, costs: Tensor) -> Tensor:
        """Return the mean `[…]` of the worst share of `costs` `[…, P]`."""
        mass = self.alpha * costs.shape[-1]
        # 0.3 · 10 is a little above 3 in floating point, and means three.
        whole = round(mass) if math.isclose(mass, round(mass)) else math.ceil(mass)
        worst = costs.topk(whole, dim=-1).values
        rest = worst[..., -1] * (mass - (whole - 1))
        return (worst[..., :-1].sum(dim=-1) + rest) / mass


class StochasticProblem(PlanningProblem):
    """A planning problem whose dynamics give a distribution of the next state.

    Any shooting planner plans for it (CEM, MPPI, GradMPC, ShootingGD …): its
    candidates are judged by the risk of their cost over particles. `plan.cost` is that
    risk for the planned actions; `plan.states` is their rollout by the mean of the
    dynamics. `problem.realize(state, horizon).particles(state, actions)` gives the
    particles themselves. Planners of one trajectory (collocation, Gauss-Newton, iLQR)
    refuse it.

    Args:
        dynamics: With a method `predict(state, action) → Normal`, see `Predictable`,
            which may take the `time` too; a world model, its `step`, or any object.
        objective: The cost of one particle's trajectory, see `Objective`.
        action_space: The box that every returned action lies in.
        num_particles: P.
        risk: Turns the particles' costs `[…, P]` into one: `Mean()`, `CVaR(alpha)` or
            any callable.
        common_noise: Whether all candidates and iterations of a plan see the same
            numbers. False draws new ones for each candidate in each iteration; then a
            cheap candidate may be a lucky one, and no plan is said to have diverged.
            `plan.cost` is by numbers that no candidate has seen.
        constraints: See `PlanningProblem`; those on states are refused.

    Raises:
        ArgumentError, TensorTypeError: an argument is out of range or of another kind.
        UnsupportedProblemError: the dynamics cannot `predict`, or a constraint is on
            states.

    Example:
        >>> import torch, diffplan as dp
        >>> class Drift:
        ...     def predict(self, state, action):
        ...         return torch.distributions.Normal(state + action, 0.1)
        >>> problem = dp.StochasticProblem(
        ...     Drift(),
        ...     dp.objectives.GoalDistance(torch.ones(1)),
        ...     dp.Box([-1.0], [1.0]),
        ...     num_particles=20,
        ...     risk=dp.CVaR(0.2),
        ... )
        >>> dp.CEM(horizon=3)(problem, torch.zeros(5, 1)).cost.shape
        torch.Size([5])
    """

    is_random = True

    def __init__(
        self,
        dynamics: object,
        objective: Objective,
        action_space: BoxLike,
        *,
        num_particles: int = 20,
        risk: RiskMeasure = Mean(),
        common_noise: bool = True,
        constraints: Iterable[ActionConstraint | StateConstraint] = (),
    ) -> None:
        model = model_behind(dynamics)
        if not isinstance(model, Predictable):
            raise UnsupportedProblemError(
                "dynamics: StochasticProblem needs dynamics with the method `predict`, "
                f"got {type(model).__name__} without it"
            )
        super().__init__(_MeanDynamics(model), objective, action_space, constraints)
        if self.state_constraints:
            raise UnsupportedProblemError(
                "constraints: StochasticProblem takes constraints on actions only; a "
                "constraint on random states would hold for no plan for certain"
            )
        if isinstance(risk, type):
            raise TensorTypeError(
                "risk: expected a function of costs, such as Mean() or CVaR(0.1), got "
                f"the class {describe(risk)}"
            )
        self.model = model
        self.num_particles = require_count("num_particles", num_particles)
        self.risk, self.common_noise = risk, common_noise
        self.noise: Tensor | None = None
        self.keys: Tensor | None = None

    def realize(
        self, state: Tensor, horizon: int, keys: Tensor | None = None
    ) -> "StochasticProblem":
        """Return this problem with the noise of one plan, `[…, P, T, S]`.

        Args:
            state: The states to plan from `[…, S]`.
            horizon: T.
            keys: Of the noise, int64 `[…]`; None stands for those of a planner that
                is called without generator, keys and warm start.
        """
        *lead, size = state.shape
        if keys is None:
            keys = stream_keys(tuple(lead), state.device)
        shape = (self.num_particles, horizon, size)
        realized = copy.copy(self)
        realized.keys = fold(keys, _PARTICLES)
        realized.noise = standard_normal(realized.keys, shape, state)
        return realized

    def redrawn(self, iteration: int, first: int, count: int) -> "StochasticProblem":
        """Return this problem with noise of each candidate, `[…, count, P, T, S]`.

        A candidate's noise follows from its problem's key, its number and the iteration
        alone. With `common_noise` it is this problem.

        Args:
            iteration: From 0.
            first: The number of the first candidate, from 0.
            count: How many there are.
        """
        if self.common_noise or self.noise is None or self.keys is None:
            return self
        numbers = torch.arange(first, first + count, device=self.keys.device)
        keys = fold(fold(self.keys, iteration)[..., None], numbers)
        redrawn = copy.copy(self)
        redrawn.noise = standard_normal(keys, tuple(self.noise.shape[-3:]), self.noise)
        return redrawn

    def particles(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the trajectories of all particles.

        Args:
            state: `[…, S]`; leads with the dimensions that the noise was drawn for,
                others (candidates) may follow.
            actions: `[…, T, A]`, with the state's leading dimensions.

        Returns:
            `[lead, P, between, T+1, S]`: P comes after the dimensions of the noise.

        Raises:
            UnsupportedProblemError: the noise is not drawn.
            ShapeError: it was drawn for another batch or horizon.
        """
        step, start, moves, times = self._per_step(state, actions)
        return rollout(step, start, moves, times=times)

    def particle_costs(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the cost of every particle `[…, P]`; see `particles`."""
        step, start, moves, times = self._per_step(state, actions)
        if self.guarded:
            functions = step, self.trajectory_cost
            costs = guarded_evaluation(*functions, start, moves, times)[1]
        else:
            states = rollout(step, start, moves, times=times)
            costs = self.trajectory_cost(states, moves)
        return costs.movedim(self._noise_for(state, actions)[1], -1)

    def _per_step(
        self, state: Tensor, actions: Tensor
    ) -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor | None]:
        """Return dynamics of one rollout of particles, their states, actions, times."""
        noise, axis = self._noise_for(state, actions)
        between = (1,) * (state.ndim - 1 - axis)
        shape = (*noise.shape[: axis + 1], *between, *noise.shape[axis + 1 :])
        each = iter(noise.reshape(shape).unbind(-2))

        def step(current: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
            following = predicted(self.model, current, action, time)
            return following.mean + following.stddev * next(each)

        start, moves = (self._per_particle(value, axis) for value in (state, actions))
        return step, start, moves, self.times(0, actions.shape[-2], state)

    def _cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the risk `[…]` of the cost of actions; see `particles`."""
        return self.risk_of(self.particle_costs(state, actions))

    def risk_of(self, costs: Tensor) -> Tensor:
        """Return the risk `[…]` of costs of particles `[…, P]`, and check it.

        Raises:
            ShapeError, TensorTypeError: not one number for each P costs, or of another
                dtype, or the risk fails.
        """
        advice = "it sums up the last dimension"
        return ask("risk:", self.risk, costs, expected=costs.shape[:-1], advice=advice)

    def evaluate(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states by the mean dynamics `[…, T+1, S]`, and the risk `[…]`."""
        states = self.rollout(state, actions)
        return states, self.cost(state, actions)

    def standing_in(self, rows: StandIns) -> "StochasticProblem":
        """Return this problem with the data, and the noise, of those that stand in."""
        other = super().standing_in(rows)
        if self.noise is None:
            return other
        own_noise = self.noise.ndim - 3 == rows.sound.ndim  # one for each candidate
        other = copy.copy(other)
        other.noise = (
            rows.put(self.noise)
            if own_noise
            else self.noise.index_select(0, rows.element)
        )
        return other

    def _changed(self, change: Callable[..., Any]) -> PlanningProblem:
        other = super()._changed(change)
        assert isinstance(other, StochasticProblem)  # a copy of this one
        # The model is the one inside the mean dynamics, which may be a copy now.
        assert isinstance(other.dynamics, _MeanDynamics)
        other.model = other.dynamics.model
        return other

    def refuse_noise(self, needed_by: str) -> None:
        """Raise.

        Raises:
            UnsupportedProblemError: always.
        """
        raise UnsupportedProblemError(
            f"problem: {needed_by} plans one trajectory and cannot weigh the particles "
            "of a StochasticProblem; use a shooting planner (CEM, MPPI, GradMPC, "
            "ShootingGD), or a PlanningProblem with the mean dynamics"
        )

    def _per_particle(self, value: Tensor, axis: int) -> Tensor:
        shape = (*value.shape[:axis], self.num_particles, *value.shape[axis:])
        return value.unsqueeze(axis).expand(shape)

    def _noise_for(self, state: Tensor, actions: Tensor) -> tuple[Tensor, int]:
        """Return the noise, and how many dimensions of the state it was drawn for."""
        noise = self.noise
        if noise is None:
            raise UnsupportedProblemError(
                "problem: a StochasticProblem has no cost before its noise is drawn; "
                "call realize(state, horizon) first"
            )
        axis = noise.ndim - 3
        fits = noise.shape[:axis] == state.shape[:axis] and state.ndim > axis
        if not fits or noise.shape[-2] != actions.shape[-2]:
            raise ShapeError(
                f"state: expected to lead with {list(noise.shape[:axis])} and a "
                f"horizon of {noise.shape[-2]}, as the noise was drawn, got state "
                f"{list(state.shape)} and actions {list(actions.shape)}"
            )
        return noise, axis


class _MeanDynamics(nn.Module):
    """The mean of the next state, as dynamics; a module, to show its parameters."""

    def __init__(self, model: Predictable) -> None:
        super().__init__()
        self.model = model
        self.takes_time = takes_time(model.predict)
        self.only_horizon: int | None = getattr(model, "only_horizon", None)

    def forward(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        return self.predict(state, action, time).mean

    def predict(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Normal:
        return predicted(self.model, state, action, time)


check_public(globals(), ("CVaR", "StochasticProblem"))
