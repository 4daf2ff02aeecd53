"""Iterative LQR with limited actions: the regulator of the problem's own linearisation.

Each iteration expands dynamics and costs about the current trajectory, sweeps backwards
for a feedback law that respects the action bounds, and rolls that law out on the true
dynamics. On a linear-quadratic problem without bounds the first iteration is exact.
"""

from collections.abc import Sequence
from typing import ClassVar

from diffplan.errors import ArgumentError
from diffplan.functional.box_lqr import IncrementalLQR, LimitedLaw
from diffplan.gradients import UNROLLED_OR_SOLVED, GradientStrategy
from diffplan.objectives._base import ResidualObjective, StageObjective
from diffplan.plan import Plan
from diffplan.planners._arguments import Form
from diffplan.planners._compiling import start_plan
from diffplan.planners.base import Solution
from diffplan.planners.request import PlanRequest
from diffplan.planners.second_order._line_search import Nominal, PolicyStep
from diffplan.planners.second_order.loop import SecondOrderShooting
from diffplan.problem import PlanningProblem
from diffplan.solvers._least_squares import AdaptiveDamping

_STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.003)
"""Fractions of the step that the line search tries."""


class ILQR(SecondOrderShooting):
    """Iterative LQR (Tassa et al.), batched, with action bounds met exactly.

    Needs a `StageObjective`. Dynamics with an analytic Jacobian (`Linearizable`) are
    linearised several times faster.

    Planning starts at the warm start, else at the centre of the action space, and is
    deterministic. The longest fraction of a step that lowers the cost enough is taken;
    an element whose Q_uu is not positive definite, or that no fraction improves, stays
    where it is and tries again with more damping (a Q_uu that is not positive definite
    grows it twice as fast).

    `plan.status`: CONVERGED where the projected gradient of the returned actions is
    within `tolerance`, else ITERATION_LIMIT; FACTORIZATION_FAILED where the last Q_uu
    was not positive definite even with the damping reached.

    `plan.diagnostics`: traces of the values before each iteration `[…, iterations]`,
    `cost`, `gradient_norm`, `damping`, and `step_size` (the fraction taken, 0 for
    none); `optimality` `[…]`, the gradient norm at the returned actions; and, with
    `feedback`, `gains` `[…, T, A, S]` of the law u = u_t + K_t (x - x_t) about the
    returned plan.

    `plan.memory`: `damping` `[…, 1, 1]`, which a warm start goes on with.

    Args:
        horizon: T, at least 1.
        iterations: At least 0; all of them, unless `early_exit`.
        gauss_newton: Whether cost Hessians are JᵀJ of a `ResidualObjective` (never
            indefinite, one pass of autodiff) or exact (two passes). None stands for
            JᵀJ wherever the objective has residuals.
        damping: The regularisation μ of Q_uu and its schedule, per batch element: the
            model has ½ μ ‖du‖² added, as in Levenberg-Marquardt.
        tolerance: Of the largest entry of the projected gradient
            `|u - project(u - ∂cost/∂u)|`.
        step_sizes: Fractions of the step that are tried, above 0 and at most 1.
        early_exit: Whether an element stays where it is once it is within the
            tolerance, and the loop ends when all are. None stands for: wherever the
            iterations are not differentiated. The loop only ends early where numbers
            may be looked at from the host: on the CPU, and, since a GPU has to wait for
            that, there only with True; never in `torch.compile` and `torch.func`. What
            is returned does not depend on it. `Truncated(k)` always gets its k
            iterations.
        max_step: How far an action may move in one iteration, a trust region: the
            sweep keeps it as it keeps the bounds, exactly, feedback included. Where the
            plan converges it does not matter, nor to `Implicit()`; `Unroll()`
            differentiates the limited steps. None sets no limit.
        feedback: Whether `plan.diagnostics` holds the gains: one more sweep.
        form: How the model of an iteration is minimised. "sweep" goes backwards over
            the steps, linear in T; its law has feedback. "condensed" eliminates the
            states: one quadratic program in all T · A actions, solved exactly, without
            feedback: `feedback` refuses it. "auto" is condensed where that is no slower
            in a batch of 64, and several times faster at batch 1: up to T · A = 160 for
            dynamics that say that they are affine (`is_affine`, as `LinearDynamics`),
            whose first program is the whole problem, else up to 24. It does not ask for
            the batch, on which no plan depends; and is a sweep with `feedback`. The
            optima are the same.
        gradient: `Unroll()` (if None), `Truncated(k)`, `Implicit()` or `Detach()`.

    Raises:
        ArgumentError: an argument is out of range, or `feedback` and `form` disagree.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Tassa, Erez and Todorov 2012, "Synthesis and stabilization of complex behaviors
        through online trajectory optimization" (IROS); Tassa, Mansard and Todorov 2014,
        "Control-limited differential dynamic programming" (ICRA). Its quadratic program
        of each step is not iterated: the actions that leave their bounds are held and
        the others solved for again. On random problems exact programs saved no
        iterations.

    Example:
        >>> import torch, diffplan as dp
        >>> problem = dp.PlanningProblem(
        ...     dynamics=lambda state, action: state + action,
        ...     objective=dp.objectives.GoalDistance(torch.ones(1), running_weight=0.0),
        ...     action_space=dp.Box([-0.2], [0.2]),
        ... )
        >>> dp.ILQR(horizon=3)(problem, torch.zeros(1)).actions.flatten()
        tensor([0.2000, 0.2000, 0.2000])
    """

    supported_gradients: ClassVar = UNROLLED_OR_SOLVED

    def __init__(
        self,
        horizon: int,
        *,
        iterations: int = 10,
        gauss_newton: bool | None = None,
        damping: AdaptiveDamping | None = None,
        tolerance: float = 1e-4,
        step_sizes: Sequence[float] = _STEP_SIZES,
        early_exit: bool | None = None,
        max_step: float | None = None,
        feedback: bool = False,
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
        self.gauss_newton = gauss_newton
        if feedback and form == "condensed":
            raise ArgumentError(
                'form: expected "sweep" or "auto" with feedback=True, got "condensed", '
                "which has no gains"
            )
        self.feedback = feedback
        self.damping = damping or AdaptiveDamping(
            initial=1e-6, shrink=0.2, grow=10.0, minimum=1e-9, maximum=1e9
        )
        self.configure_gradient(gradient)

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if the objective has no stages, or no residuals where they are asked.

        Raises:
            UnsupportedProblemError: says what is missing.
        """
        problem.refuse_constraints("ILQR")
        problem.require_objective(StageObjective, "ILQR")
        if self.gauss_newton:
            problem.require_objective(ResidualObjective, "ILQR(gauss_newton=True)")

    def damping_rule(self) -> AdaptiveDamping:
        """Return how the damping changes."""
        return self.damping

    def cold_start(self, request: PlanRequest) -> Plan:
        """Return the centre of the box, with the first damping."""
        actions, state = super().cold_start(request).actions, request.state
        damping = self.damping.start(state[:, :1, None])
        return start_plan(state, actions, {"damping": damping})

    def solve(self, request: PlanRequest) -> Solution:
        """Run the loop; see `Planner.solve`."""
        problem, state, warm_start = request.problem, request.state, request.warm_start
        start = self.initial_actions(request)
        damping = self.damping.start(state[:, 0])
        if warm_start is not None and "damping" in warm_start.memory:
            damping = warm_start.memory["damping"][:, 0, 0].to(damping)
        start = problem.action_space.project(start)
        return self.iterate(request, state, start, damping.detach())[0]

    def gauss_newton_for(self, problem: PlanningProblem) -> bool:
        """Return whether cost Hessians are JᵀJ."""
        if self.gauss_newton is None:
            return isinstance(problem.objective, ResidualObjective)
        return self.gauss_newton

    def step(
        self,
        problem: PlanningProblem,
        nominal: Nominal,
        model: IncrementalLQR,
        law: LimitedLaw,
    ) -> PolicyStep:
        """Return the law itself: a step with feedback."""
        return PolicyStep(law.feedforward, law.gains, law.decrease, law.ok)
