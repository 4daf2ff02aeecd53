"""How a plan is differentiated: one object per strategy, given at construction.

What a planner declares holds in reverse and in forward mode, and for what is made of
them: `torch.autograd`, `torch.autograd.forward_ad`, and the transforms of `torch.func`,
which a planner or strategy refuses by name where it cannot follow them.

The words are those of Theseus' backward modes. A planner declares which strategies
it supports, to which order and with respect to what; any other is refused when the
planner is built, not when `backward` runs.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

from diffplan._checks import require_count, require_positive
from diffplan._kinds import check_public
from diffplan.errors import ArgumentError
from diffplan.functional._derivatives import constants

__all__ = [
    "AT_A_SOLUTION",
    "CONSTANT",
    "UNROLLED",
    "UNROLLED_OR_SOLVED",
    "Derivatives",
    "Detach",
    "GradientStrategy",
    "Implicit",
    "Truncated",
    "Unroll",
    "tracked",
]

_ARGUMENTS = ("dynamics", "objective", "state", "bounds", "warm start", "planner")
"""What a plan can be differentiated with respect to.

Parameters of the dynamics and of the objective, the given state, the bounds of the
action space, the warm start's actions, and the planner's own learnable numbers.
"""


@dataclass(frozen=True)
class Derivatives:
    """What one strategy of one planner promises.

    Attributes:
        order: Highest right derivative of the planned actions; 0 means constants.
        wrt: With respect to what, of `_ARGUMENTS`. The gradient to anything else is
            zero or refused.
    """

    order: int
    wrt: tuple[str, ...] = _ARGUMENTS


CONSTANT = Derivatives(order=0, wrt=())
"""Of `Detach`: the actions are constants, and `plan.cost` knows no price of bounds."""

AT_A_SOLUTION = Derivatives(order=2, wrt=("dynamics", "objective", "state", "bounds"))
"""Of `Implicit`: how the solution was found does not matter."""


@dataclass(frozen=True)
class GradientStrategy:
    """Base of all strategies; not to be used itself."""


@dataclass(frozen=True)
class Unroll(GradientStrategy):
    """Backpropagate through every iteration of the planner.

    Exact for the plan that was computed, converged or not. Memory grows with the
    number of iterations.
    """


@dataclass(frozen=True)
class Truncated(GradientStrategy):
    """Backpropagate through the last iterations only.

    What the earlier iterations found is a constant, so the gradient is exact for a
    planner that starts there. Near a solution it approaches that of `Implicit()`
    geometrically in the number of iterations, at bounded memory.

    Attributes:
        iterations: k, how many of the last iterations keep a graph, at least 1.

    References:
        Shaban et al. 2019, "Truncated back-propagation for bilevel optimization"
        (arXiv:1810.10667).
    """

    iterations: int

    def __post_init__(self) -> None:
        require_count("iterations", self.iterations)


@dataclass(frozen=True)
class Implicit(GradientStrategy):
    """Differentiate the solution by the implicit-function theorem.

    The planner runs without a graph and its answer is polished by Newton steps until
    it is stationary: ∇F(z; θ) = 0 for the function F that the planner minimises, on
    the actions that no bound holds. Then dz/dθ = -H⁻¹ ∂²F/∂z∂θ, where H is the *true*
    Hessian of F; the Gauss-Newton matrix would give a wrong derivative wherever a
    residual is not zero at the solution. `ILQR` and `ShootingGN` solve with H exactly
    for states of few numbers (it is a regulator's), else, as LatCo does, by conjugate
    gradients on exact Hessian-vector products, preconditioned with a Gauss-Newton
    factorisation. Memory does not grow with the iterations.

    A solution that is not stationary within `tolerance`, and one whose Hessian is not
    positive definite, has no such derivative. The first is known in the forward pass
    (`plan.status` says NOT_STATIONARY, `plan.diagnostics["stationarity"]` by how
    much), the second then or in backward; `on_failure` decides what backward does with
    them.

    Attributes:
        order: 2 lets the derivative be differentiated again, at twice the cost; with 1
            a second derivative is refused.
        tolerance: Largest norm of the Newton step that is left at the solution,
            relative to 1 + the norm of the variables. None stands for 1e-9 in float64
            and 1e-4 in float32.
        polish: Newton steps at most; 0 leaves the planner's answer as it is.
        solver_iterations: Conjugate-gradient iterations at most, per solve.
        solver_tolerance: Where they stop, relative to the right-hand side; None
            stands for 1e-10 in float64 and 1e-5 in float32.
        on_failure: What an element without a derivative gets when it is differentiated:
            "raise" raises `GradientError` and names the elements; "zero" gives that
            element a zero gradient and warns (`NumericsWarning`); "nan" gives NaN.
            `torch.func.jacrev` may hide the element: then it is NaN instead of an
            error.

    References:
        Amos et al. 2018, "Differentiable MPC for end-to-end planning and control"
        (arXiv:1810.13400), for the fixed point of a controller; Krantz and Parks, "The
        Implicit Function Theorem".
    """

    order: int = 1
    tolerance: float | None = None
    polish: int = 30
    solver_iterations: int = 200
    solver_tolerance: float | None = None
    on_failure: Literal["raise", "zero", "nan"] = "raise"

    def __post_init__(self) -> None:
        for name in ("tolerance", "solver_tolerance"):
            value = getattr(self, name)
            if value is not None:
                require_positive(name, value)
        if self.order not in (1, 2):
            raise ArgumentError(f"order: expected 1 or 2, got {self.order!r}")
        require_count("polish", self.polish, 0)
        require_count("solver_iterations", self.solver_iterations)


@dataclass(frozen=True)
class Detach(GradientStrategy):
    """Treat the planned actions as constants.

    `plan.actions` carries no gradient. `plan.states` and `plan.cost` are computed
    from those actions with a graph, so the cost's gradient is that of the envelope
    theorem: with respect to dynamics, objective and state exact at an optimum, and with
    the actions held fixed elsewhere. With respect to the bounds (and other constraints
    on actions) it is zero, though an active bound has a price, its multiplier: use
    another strategy to learn bounds.
    """


_ITERATED = {Unroll: Derivatives(order=2), Truncated: Derivatives(order=2)}

UNROLLED: Mapping[type[GradientStrategy], Derivatives]
UNROLLED = {**_ITERATED, Detach: CONSTANT}
"""Of a planner all of whose iterations can be differentiated."""

UNROLLED_OR_SOLVED: Mapping[type[GradientStrategy], Derivatives]
UNROLLED_OR_SOLVED = {**_ITERATED, Implicit: AT_A_SOLUTION, Detach: CONSTANT}
"""Of one whose solution can be differentiated, too."""


def tracked(
    gradient: GradientStrategy, iteration: int, iterations: int
) -> AbstractContextManager[object]:
    """Return the context in which a planner runs one of its iterations.

    Args:
        gradient: The planner's strategy.
        iteration: Which one, from 0.
        iterations: How many there are.

    Returns:
        One without derivatives, of reverse and forward mode, for an iteration that
        `Truncated` cuts off; else nothing.
    """
    if isinstance(gradient, Truncated) and iteration < iterations - gradient.iterations:
        return constants()
    return nullcontext()


check_public(globals(), ("Derivatives", "Implicit", "Truncated"))
