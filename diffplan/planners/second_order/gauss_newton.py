"""Shooting with Gauss-Newton: Levenberg-Marquardt on the actions.

The cost is a sum of squared residuals of a rollout, linearised in all actions at once.
Written in states and actions, the damped normal equations are a linear-quadratic
regulator, so that a step costs one Riccati recursion, linear in the horizon, where the
dense Jacobian of all residuals by all actions would cost its cube.
"""

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor

from diffplan._checks import require_count
from diffplan.functional.box_lqr import IncrementalLQR, LimitedLaw, limited_rollout
from diffplan.gradients import UNROLLED_OR_SOLVED, GradientStrategy
from diffplan.objectives._base import ResidualObjective
from diffplan.plan import Plan
from diffplan.planners._arguments import Form, Init
from diffplan.planners._compiling import any_afresh, start_plan, starts_afresh
from diffplan.planners._evaluation import candidate_costs, pick, worst_if_failed
from diffplan.planners._numbers import set_number
from diffplan.planners._progress import with_cheaper_last
from diffplan.planners.base import Solution
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order._line_search import Nominal, PolicyStep, increments
from diffplan.planners.second_order.loop import SecondOrderShooting
from diffplan.problem import PlanningProblem
from diffplan.solvers._least_squares import AdaptiveDamping


class ShootingGN(SecondOrderShooting):
    """Shooting with Gauss-Newton steps, from several starting points at once.

    LatCo's baseline "shooting GN". Needs a `ResidualObjective` (for rewards:
    `SoftplusReward`). The released baseline has soft action limits with growing
    multipliers and takes a tenth of each step at a fixed damping of 1e-2; it is in none
    of the paper's tables. Here the limits are hard: steps stay inside the bounds as
    those of `ILQR` do, so that the plan converges to the optimum within them.
    `damping=1e-2, step_sizes=(0.1,)` gives the release's steps.

    From `ILQR` it differs in the start (random, several at once) and in that a step is
    the open-loop solution of the linearised problem instead of a feedback law.

    `plan.status`, `plan.diagnostics` and `plan.memory` are those of `ILQR` for the best
    start, without gains.

    Args:
        horizon: T, at least 1.
        iterations: Steps (LatCo: 100), at least 0; all of them, unless `early_exit`.
        damping: Added to the curvature of the actions. An `AdaptiveDamping` takes a
            step only if it lowers the cost; a number, or a tensor or `nn.Parameter` to
            learn it, stays as it is, and every step is taken.
        tolerance: Of the largest entry of the projected gradient
            `|u - project(u - ∂cost/∂u)|`.
        step_sizes: Fractions of the step that are tried, above 0 and at most 1; the
            best is taken.
        num_starts: Starting points that are optimised side by side; the best result is
            taken. With a warm start the first one is that plan; without, one is the
            middle of the box where that is cheaper than all.
        early_exit: See `ILQR`.
        max_step: See `ILQR`.
        form: See `ILQR`.
        init: Distribution of the starting points: "normal", N(centre, half width²)
            clipped to the box, or "uniform" in the box.
        gradient: `Unroll()` (if None), `Truncated(k)`, `Implicit()` or `Detach()`.

    Raises:
        ArgumentError: an argument is out of range.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Rybkin et al. 2021, LatCo (arXiv:2106.13229), appendix D and released code;
        Dunn and Bertsekas 1989, "Efficient dynamic programming implementations of
        Newton's method for unconstrained optimal control problems"; bounds: see `ILQR`.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1), running_weight=0.0),
        ...     action_space=dp.Box([-0.2], [0.2]),
        ... )
        >>> dp.ShootingGN(horizon=3)(problem, torch.zeros(1)).actions.flatten()
        tensor([0.2000, 0.2000, 0.2000])
    """

    supported_gradients: ClassVar = UNROLLED_OR_SOLVED
    learnable_numbers: ClassVar = ("damping",)
    candidate_dimensions: ClassVar[int] = 2  # starts, and fractions of a step
    damping: AdaptiveDamping | Tensor | float

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 30,
        damping: AdaptiveDamping | Tensor | float | None = None,
        tolerance: float = 1e-4,
        step_sizes: Sequence[float] = (1.0, 0.3, 0.1),
        num_starts: int = 1,
        init: Init = "normal",
        early_exit: bool | None = None,
        max_step: float | None = None,
        form: Form = "auto",
        gradient: GradientStrategy | None = None,
    ) -> None:
        super().__init__()
        self.configure_iteration(
            horizon=horizon,
            iterations=iterations,
            tolerance=tolerance,
            step_sizes=step_sizes,
            early_exit=early_exit,
            max_step=max_step,
            form=form,
        )
        if damping is None or isinstance(damping, AdaptiveDamping):
            self.damping = damping or AdaptiveDamping(initial=1e-2, minimum=1e-6)
        else:
            set_number(self, "damping", damping)
        self.num_starts = require_count("num_starts", num_starts)
        self.init = init
        self.configure_gradient(gradient)

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the objective has no residuals, or actions have more than a box.

        Raises:
            UnsupportedProblemError: says what is missing or too much.
        """
        problem.refuse_constraints("ShootingGN")
        problem.require_objective(ResidualObjective, "ShootingGN")

    def damping_rule(self) -> AdaptiveDamping | Tensor | float:
        """Return how the damping changes."""
        return self.damping

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...]:
        """Return the shape of the starts' N(0, 1) numbers, `[num_starts, T, A]`."""
        return (self.num_starts, self.horizon, request.problem.action_space.dim)

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the first of the random starts, with the first damping."""
        noise = self.with_noise(request).drawn()[:, :1]
        memory = {"damping": self._first_damping(noise)[..., None]}
        start = self._starts(request.problem, noise)[:, 0]
        return start_plan(request.state, start, memory)

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop from every start and keep the best; see `Planner.solve`."""
        problem, state, warm_start = request.problem, request.state, request.warm_start
        noise = request.drawn()
        actions = self._starts(problem, noise)
        damping = self._first_damping(noise)
        if warm_start is not None:
            actions = torch.cat([warm_start.actions.unsqueeze(1), actions[:, 1:]], 1)
            damping = self._warm_damping(warm_start, damping)
        actions = problem.action_space.project(actions)
        afresh = starts_afresh(warm_start, state)
        if self.iterations > 0 and any_afresh(afresh):
            actions = self._with_middle(request, actions, afresh)
        starts = state.unsqueeze(1).expand(-1, self.num_starts, -1)
        return self._best(*self.iterate(request, starts, actions, damping))

    def gauss_newton_for(self, problem: PlanningProblem) -> bool:
        """Return True."""
        return True

    def step(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        model: IncrementalLQR,
        law: LimitedLaw,
    ) -> PolicyStep:
        """Return the damped Gauss-Newton step inside the bounds."""
        limits = increments(problem, nominal, self.max_step)
        moves = limited_rollout(model, law, *limits)
        return PolicyStep(moves, None, law.decrease, law.ok)

    def _starts(self, problem: PlanningProblem, noise: Tensor) -> Tensor:
        """Return the random starts `[B, num_starts, T, A]`."""
        box = problem.action_space.aligned(noise)
        spread = 2 * torch.special.ndtr(noise) - 1 if self.init == "uniform" else noise
        return box.center + box.scale * spread

    def _first_damping(self, noise: Tensor) -> Tensor:
        """Return the first damping of each start `[B, num_starts]`."""
        first = self.damping
        if isinstance(first, AdaptiveDamping):
            first = first.initial
        # A number is filled on the device: a copy from the host would be waited for.
        if not isinstance(first, Tensor):
            first = noise.new_full((), first)
        return first.to(noise).expand(noise.shape[:2])

    def _warm_damping(self, warm_start: Plan, damping: Tensor) -> Tensor:
        adaptive = isinstance(self.damping, AdaptiveDamping)
        if not adaptive or "damping" not in warm_start.memory:
            return damping
        kept = warm_start.memory["damping"][:, :, 0].to(damping).detach()
        return torch.cat([kept, damping[:, 1:]], dim=1)

    def _with_middle(
        self, request: PlanRequest, actions: Tensor, afresh: Tensor
    ) -> Tensor:
        """Put the middle of the box in the place of a start, if it is cheaper than all.

        A descent that starts afresh ends no higher then than there.
        """
        problem, state = request.problem, request.state
        middle = self.initial_actions(request.afresh()).unsqueeze(1)
        tried = torch.cat((actions, middle), dim=1)
        with torch.no_grad():
            cost = worst_if_failed(candidate_costs(problem, state, tried))
            index = with_cheaper_last(cost, afresh)
        return tried.gather(1, index[:, :, None, None].expand_as(actions))

    def _best(self, found: Solution, cost: Tensor) -> Solution:
        best = cost.argmin(dim=1)
        at = best.unsqueeze(1)
        return Solution(
            actions=pick(found.actions, best),
            status=cast(Tensor, found.status).gather(1, at).squeeze(1),
            iterations=cast(Tensor, found.iterations).gather(1, at).squeeze(1),
            diagnostics={k: pick(v, best) for k, v in found.diagnostics.items()},
            memory={k: pick(v, best) for k, v in found.memory.items()},
        )
