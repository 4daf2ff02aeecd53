"""Gaussian LatCo: collocation of distributions (Rybkin et al., ICML 2021, section 3.4).

LatCo plans as if the next state were the mean of what the model predicts. This planner
also plans how uncertain each state is, a standard deviation beside its mean, and pays
for what is expected of the cost: a goal that is better under the mean but worse on
average is no goal.
"""

from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from diffplan._checks import require_count
from diffplan.capabilities import Predictable
from diffplan.errors import ArgumentError
from diffplan.gradients import UNROLLED
from diffplan.planners._progress import unless_worse
from diffplan.planners.base import Solution
from diffplan.planners.collocation._moments import (
    MomentLinearization,
    MomentProblem,
    MomentViolation,
    WithSpreads,
)
from diffplan.planners.collocation.latco import LatCo
from diffplan.planners.collocation.multipliers import (
    LogarithmicRule,
    MethodOfMultipliers,
)
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem


class GaussianLatCo(LatCo):
    """Latent collocation of means and spreads.

    Needs dynamics that `predict` a distribution of the next state, and a
    `ResidualObjective`. What is minimised is the expectation of the objective's cost
    ½‖residual‖², by samples: a residual of R numbers is K R numbers for the solver. Of
    `SoftplusReward` that is ½ softplus(-r)², convex in the reward: it shuns risk more
    than the expected reward does.

    Means, spreads and actions are variables. The spread of each state is matched to
    that of the prediction, by samples whose noise stays the same throughout a plan; the
    draws come in pairs ± and with variance 1. The given state is certain.

    Starting points, failures, the way out of the box and back are LatCo's. Whichever of
    several plans is best, and whether to fall back, is decided by the expected cost of
    rollouts; `plan.states` and `plan.cost` are the rollout by the mean.

    `plan.diagnostics` has those of LatCo, `planned_states` being the means, and
    `planned_spreads` `[…, T, S]`; `plan.memory` has `spreads` besides.

    Args:
        horizon: T, at least 1.
        num_samples: K, even.
        linearization: What the step knows of derivatives. "mean" takes those of the
            dynamics at the means, where an analytic Jacobian (`Linearizable`) is used:
            an iteration costs less than three of LatCo's. "samples" averages them over
            the samples, as the authors do, by autodiff. In both the spreads count as
            given when means and actions move (the authors' stopped gradient): no action
            is chosen because it *makes* the next state less uncertain. "full" moves all
            by the whole gradient, in a chain twice as wide.
        dynamics_violation: What multipliers follow: "moments" the squared norm of the
            residuals of means and spreads (Eq. 11); "released" ‖μ_{t+1} - f(μ_t, u_t)‖²
            with the mean f of a prediction, as the authors' code does. Where dynamics
            bend, that does not vanish, and its multiplier grows without end.
        options: Arguments of `LatCo`, but `engine`; `iterations` are 50 and both
            tolerances 1e-2 unless given. `gradient` may be `Unroll()`, `Truncated(k)`
            or `Detach()`: spreads that count as given have no minimum to differentiate.

    Raises:
        ArgumentError, UnsupportedGradientError: a setting is out of range.

    References:
        Rybkin et al., "Model-Based Reinforcement Learning via Latent-Space
        Collocation", ICML 2021, section 3.4, Eq. 4, 5, 7, 11, 12, Algorithms 2 and 3.

    Example:
        >>> import torch, diffplan as dp
        >>> class Drift:
        ...     def __call__(self, state, action):
        ...         return state + action
        ...
        ...     def predict(self, state, action):
        ...         return torch.distributions.Normal(state + action, 0.1)
        >>> goal = dp.objectives.GoalDistance(torch.ones(1))
        >>> problem = dp.PlanningProblem(Drift(), goal, dp.Box([-1.0], [1.0]))
        >>> plan = dp.GaussianLatCo(horizon=3)(problem, torch.zeros(1))
        >>> plan.diagnostics["planned_spreads"].shape
        torch.Size([3, 1])
    """

    supported_gradients: ClassVar = UNROLLED

    def __init__(
        self,
        horizon: int,
        *,
        num_samples: int = 50,
        linearization: MomentLinearization = "mean",
        dynamics_violation: MomentViolation = "moments",
        **options: Any,
    ) -> None:
        if options.get("engine", "native") != "native":
            raise ArgumentError(
                "engine: expected 'native', the only one that moves spreads, got "
                f"{options['engine']!r}"
            )
        if isinstance(options.get("multiplier_rule"), MethodOfMultipliers):
            raise ArgumentError(
                "multiplier_rule: expected one that scales multipliers by a violation, "
                "such as LogarithmicRule(), got MethodOfMultipliers(), which is LatCo's"
            )
        defaults = {
            "iterations": 50,
            "dynamics_tolerance": 1e-2,
            "action_tolerance": 1e-2,
        }
        super().__init__(horizon, **{**defaults, **options})
        self.num_samples = require_count("num_samples", num_samples, 2)
        if num_samples % 2:
            raise ArgumentError(
                f"num_samples: expected an even number, for draws come in pairs, got "
                f"{num_samples}"
            )
        self.linearization: MomentLinearization = linearization
        self.dynamics_violation: MomentViolation = dynamics_violation
        if linearization != "full":
            self.solver = WithSpreads(self.solver)

    @classmethod
    def released(cls, horizon: int = 30, **options: Any) -> "GaussianLatCo":
        """Return Gaussian LatCo as its authors' code has it.

        Derivatives averaged over samples, spreads given, multipliers that follow the
        violation of the mean alone, and the plan is the answer whatever it costs. The
        authors draw anew in each iteration, and one sample for the reward.
        """
        released: dict[str, Any] = {
            "linearization": "samples",
            "dynamics_violation": "released",
            "fall_back": False,
        }
        return cls(horizon, **{**released, **options})

    @classmethod
    def paper(cls, horizon: int = 30, **options: Any) -> "GaussianLatCo":
        """Return Gaussian LatCo as its paper prints it.

        As `released`, but for multipliers that follow both moments by the rule of
        Eq. 10, an action tolerance of 1e-4, and ‖excess‖² as violation of the action
        limits.
        """
        printed: dict[str, Any] = {
            "dynamics_violation": "moments",
            "multiplier_rule": LogarithmicRule.paper(),
            "action_tolerance": 1e-4,
        }
        planner = cls.released(horizon, **{**printed, **options})
        planner.action_violation = "paper"
        return planner

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the dynamics cannot `predict`, or the objective has no residuals."""
        problem.require(Predictable, type(self).__name__)
        super().check_problem(problem)

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of starts and draws, `[starts + K, T, S + A]`.

        The last A numbers of a draw are not used.
        """
        starts, horizon, width = super().noise_shape(request)
        return (starts + self.num_samples, horizon, width)

    def collocation(self, request: PlanRequest, starts: int = 1) -> MomentProblem:
        """Return what is iterated on, for `starts` starting points of each problem."""
        noise = request.drawn()[:, self.num_starts :, :, : request.state.shape[-1]]
        return MomentProblem(
            request.problem.repeated(starts),
            request.state.repeat_interleave(starts, dim=0),
            noise.repeat_interleave(starts, dim=0),
            self.action_violation,
            linearization=self.linearization,
            dynamics_violation=self.dynamics_violation,
        )

    def solve(self, request: PlanRequest) -> Solution:
        """Do what LatCo does, and judge by the expected cost."""
        solution, problem = super().solve(request), request.problem
        if solution.known is None or not request.evaluate:
            return replace(solution, known=None)

        def evaluate(
            problem: PlanningProblem, state: Tensor, actions: Tensor
        ) -> tuple[Tensor, Tensor]:
            collocation = self.collocation(replace(request, problem=problem))
            return actions, collocation.rollout_cost(state, actions)

        both = problem.project(solution.actions), solution.known
        found = unless_worse(evaluate, problem, request.state, *both)
        return replace(solution, actions=found[0], known=None)
