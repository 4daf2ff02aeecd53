"""Gaussian LatCo's problem: the moments of a trajectory of distributions.

Variables are a mean μ_t and a spread σ_t (a standard deviation) of each state beside
the actions. With K draws ε, η that stay the same throughout a plan,

    z_t^k = μ_t + σ_t ε_t^k,    y_t^k = mean(z_t^k, u_t) + std(z_t^k, u_t) η_t^k,

the residuals are μ_{t+1} - mean_k y_t^k and σ_{t+1} - std_k y_t^k (LatCo, Eq. 11, 12,
Algorithm 3), and those of the objective at all z_t^k, over √K: half their square is the
sample mean of the cost.

Where spreads are taken to be given, nothing but σ_{t+1} - std_k y_t^k depends on them:
their step is known at once, and the chain to solve is no larger than LatCo's.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffplan.functional._isolation import StandIns
from diffplan.functional._rollout import rollout
from diffplan.functional._safe_math import safe_sqrt
from diffplan.functional.linearize import linearize_dynamics
from diffplan.planners.collocation._residuals import (
    ActionViolation,
    Linearization,
    Linearized,
    Residuals,
    TrajectoryProblem,
)
from diffplan.problem import PlanningProblem
from diffplan.solvers.blocks import ChainBlocks, ChainSolver, ChainStep

MomentLinearization = Literal["mean", "samples", "full"]
MomentViolation = Literal["moments", "released"]

_FIRST_SPREAD = 1e-6


def balanced(noise: Tensor) -> Tensor:
    """Return twice as many draws, in pairs ±, each number of variance 1 over them.

    So that the moments of a linear model are exact and luck moves no mean.

    Args:
        noise: `[B, K / 2, …]`.
    """
    size = noise.square().mean(dim=1, keepdim=True).sqrt()
    noise = noise / torch.where(size > 0, size, 1.0)
    return torch.cat([noise, -noise], dim=1)


@dataclass(frozen=True)
class SpreadBlocks(ChainBlocks):
    """The subproblem of the means, and σ_{t+1} - std_k y_t^k `[…, T, S]` beside it."""

    spread_defect: Tensor


@dataclass(frozen=True)
class WithSpreads:
    """A solver of `SpreadBlocks`: that of the means, and of each spread by itself."""

    solver: ChainSolver

    def __call__(self, blocks: ChainBlocks) -> ChainStep:
        """Solve for the step of means and spreads `[…, T, 2S]`, and of the actions."""
        assert isinstance(blocks, SpreadBlocks)  # nothing else is handed out here
        step = self.solver(blocks)
        ok = step.ok[..., None]
        # An element without a step has a damping of NaN, which must not flow back.
        damping = torch.where(ok, blocks.damping[..., None], 1.0)
        share = blocks.transition_weight / (blocks.transition_weight + damping)
        spreads = torch.where(ok, share, 0.0)[..., None] * -blocks.spread_defect
        return step._replace(states=torch.cat([step.states, spreads], dim=-1))


class GivenSpreads(NamedTuple):
    """Residuals, whose Jacobians are those of and by the means `[…, S]` alone."""

    both: Linearization

    @property
    def residuals(self) -> Residuals:
        """Return the residuals of means and spreads."""
        return self.both.residuals

    def weigh(
        self, dynamics_weight: Tensor, action_weight: Tensor, damping: Tensor
    ) -> ChainBlocks:
        """Return the damped Gauss-Newton subproblem; see `Linearization.weigh`."""
        mean, spread = self.residuals.defect.chunk(2, dim=-1)
        means = self.both._replace(residuals=self.residuals._replace(defect=mean))
        chain = means.weigh(dynamics_weight, action_weight, damping)
        return SpreadBlocks(**vars(chain), spread_defect=spread)


class MomentProblem(TrajectoryProblem):
    """A planning problem seen by Gaussian LatCo, for states `[B, S]`.

    The states of its trajectories are means and spreads `[B, T, 2S]`.

    Args:
        problem: As for `TrajectoryProblem`; its dynamics are asked to `predict`.
        state: The given states x_0 `[B, S]`, which are certain.
        noise: N(0, 1) numbers `[B, K, T, S]`, K even: the first half makes the draws of
            states, the others those of what the model adds; see `balanced`.
        action_violation: See `TrajectoryProblem`.
        linearization: See `GaussianLatCo`.
        dynamics_violation: Likewise.
    """

    def __init__(
        self,
        problem: PlanningProblem,
        state: Tensor,
        noise: Tensor,
        action_violation: ActionViolation = "released",
        *,
        linearization: MomentLinearization = "mean",
        dynamics_violation: MomentViolation = "moments",
    ) -> None:
        super().__init__(problem, state, action_violation)
        self.predict = problem.predict
        self.linearization = linearization
        self.dynamics_violation = dynamics_violation
        drawn, added = noise.chunk(2, dim=1)
        self.draws = (balanced(drawn), balanced(added))

    def standing_in(self, rows: StandIns) -> "MomentProblem":
        """Return this problem with the data of those that stand in; see the base."""
        changed = super().standing_in(rows)
        if self.predict == self.problem.predict:
            changed.predict = changed.problem.predict
        return changed

    def lifted(self, states: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        """Return means `[…, T, S]` with the spreads of an earlier plan, or of none."""
        spreads = memory.get("spreads")
        if spreads is None:
            spreads = torch.full_like(states, _FIRST_SPREAD)
        return torch.cat([states, spreads], dim=-1)

    def told(self, states: Tensor) -> dict[str, Tensor]:
        """Return means and spreads."""
        means, spreads = states.chunk(2, dim=-1)
        return {"states": means, "spreads": spreads}

    def rollout_cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Return the expected cost of following actions, by the draws of the model.

        Args:
            state: `[B, S]`, or `[B, N, S]` with N sequences of actions for each.
            actions: `[B, T, A]`, or `[B, N, T, A]`.
        """
        added = self.draws[1]
        shape = (*added.shape[:2], *(1,) * (state.ndim - 2), *added.shape[2:])
        each = iter(added.reshape(shape).unbind(dim=-2))

        def step(current: Tensor, action: Tensor, time: Tensor | None = None) -> Tensor:
            following = self.predict(current, action, time)
            return following.mean + following.stddev * next(each)

        moves = self._per_draw(actions)
        states = rollout(step, self._per_draw(state), moves, times=self._times(actions))
        return self.problem.trajectory_cost(states, moves).mean(dim=1)

    def _per_draw(self, value: Tensor) -> Tensor:
        """Return `[B, K, …]` for a value `[B, …]`."""
        count = self.draws[0].shape[1]
        return value.unsqueeze(1).expand(len(value), count, *value.shape[1:])

    def _visited(self, state: Tensor, states: Tensor) -> Tensor:
        certain = torch.cat([state, torch.zeros_like(state)], dim=-1)
        return torch.cat([certain[:, None], states], dim=1)

    def _evaluate(
        self, state: Tensor, states: Tensor, variables: Tensor, *draws: Tensor
    ) -> Residuals:
        residuals = super()._evaluate(state, states, variables, *draws)
        return self._judged(residuals, state, states, variables)

    def _linearize(
        self, state: Tensor, states: Tensor, variables: Tensor, *draws: Tensor
    ) -> Linearized:
        found = super()._linearize(state, states, variables, *draws)
        assert isinstance(found, Linearization)  # narrows the type
        residuals = self._judged(found.residuals, state, states, variables)
        found = found._replace(residuals=residuals)
        return found if self.linearization == "full" else GivenSpreads(found)

    def _judged(
        self, residuals: Residuals, state: Tensor, states: Tensor, variables: Tensor
    ) -> Residuals:
        """Return residuals with the violation that multipliers follow."""
        if self.dynamics_violation == "moments":
            return residuals
        means, _ = states.chunk(2, dim=-1)
        previous = super()._visited(state, means)[:, :-1]
        defect = means - super()._following(previous, self.units.actions(variables))
        return residuals._replace(dynamics_violation=defect.square().sum(dim=-1))

    def _particles(self, states: Tensor, drawn: Tensor) -> Tensor:
        """Return z `[B, K, T, S]` of states `[B, T, 2S]`."""
        means, spreads = states.chunk(2, dim=-1)
        return means.unsqueeze(1) + spreads.unsqueeze(1) * drawn

    def _before(self, drawn: Tensor) -> Tensor:
        """Return the draws of x_0 … x_{T-1}, those of the certain x_0 zeros."""
        return torch.cat([torch.zeros_like(drawn[:, :, :1]), drawn[:, :, :-1]], dim=2)

    def _moments(
        self, particles: Tensor, actions: Tensor, added: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and spread `[B, T, S]` of what follows."""
        moves = self._per_draw(actions)
        following = self.predict(particles, moves, self._times(actions))
        reached = following.mean + following.stddev * added
        mean = reached.mean(dim=1)
        variance = (reached - mean.unsqueeze(1)).square().mean(dim=1)
        return mean, safe_sqrt(variance)

    def _following(self, states: Tensor, actions: Tensor, *draws: Tensor) -> Tensor:
        drawn, added = draws
        particles = self._particles(states, self._before(drawn))
        return torch.cat(self._moments(particles, actions, added), dim=-1)

    def _linearized_dynamics(
        self, states: Tensor, actions: Tensor, *draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.linearization == "full":
            return linearize_dynamics(
                lambda x, u: self._following(x, u, *draws), states, actions
            )
        means, spreads = states.chunk(2, dim=-1)
        if self.linearization == "mean":
            following = self._following(states, actions, *draws)
            _, by_mean, by_action = super()._linearized_dynamics(means, actions)
            return following, by_mean, by_action

        def following_mean(x: Tensor, u: Tensor) -> Tensor:
            both = torch.cat([x, spreads], dim=-1)
            return self._following(both, u, *draws)[..., : x.shape[-1]]

        _, by_mean, by_action = linearize_dynamics(following_mean, means, actions)
        return self._following(states, actions, *draws), by_mean, by_action

    def _cost(self, visited: Tensor, actions: Tensor, *draws: Tensor) -> Tensor:
        drawn, _ = draws
        certain = torch.zeros_like(drawn[:, :, :1])
        particles = self._particles(visited, torch.cat([certain, drawn], dim=2))
        moves = self._per_draw(actions)
        return self.problem.trajectory_cost(particles, moves).mean(dim=1)

    def _stages(
        self, states: Tensor, actions: Tensor, *draws: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        drawn = self._before(draws[0])
        particles, moves = self._particles(states, drawn), self._per_draw(actions)
        value, by_state, by_action = super()._stages(particles, moves)
        by_state = self._by_moments(by_state, drawn)
        return _rows(value, 1), _rows(by_state, 2), _rows(by_action, 2)

    def _end(
        self, state: Tensor, horizon: int, *draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        drawn = draws[0][:, :, -1]
        mean, spread = state.chunk(2, dim=-1)
        particles = mean.unsqueeze(1) + spread.unsqueeze(1) * drawn
        value, by_state = super()._end(particles, horizon)
        by_state = self._by_moments(by_state, drawn)
        return _rows(value, 1), _rows(by_state, 2)

    def _by_moments(self, by_state: Tensor, drawn: Tensor) -> Tensor:
        """Return Jacobians by means, and beside them by spreads where these count.

        Args:
            by_state: By the particles `[…, R, S]`.
            drawn: ε `[…, S]`.
        """
        if self.linearization != "full":
            return by_state
        return torch.cat([by_state, by_state * drawn.unsqueeze(-2)], dim=-1)


def _rows(value: Tensor, features: int) -> Tensor:
    """Return residuals of all draws, or their Jacobians, as those of one trajectory.

    Args:
        value: `[B, K, …, R]`, or with `features` 2 `[B, K, …, R, n]`.
        features: Dimensions of a Jacobian's rows and columns, or of a residual's.
    """
    together = value.movedim(1, -features - 1).flatten(-features - 1, -features)
    return together / math.sqrt(value.shape[1])
