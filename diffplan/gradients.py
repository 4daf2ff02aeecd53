"""How a plan is differentiated: one object per strategy, given at construction.

The words are those of Theseus' backward modes. A planner declares which strategies
it supports; any other is refused when the planner is built, not when `backward` runs.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from diffplan.errors import UnsupportedGradientError


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
class Detach(GradientStrategy):
    """Treat the planned actions as constants.

    `plan.actions` carries no gradient. `plan.states` and `plan.cost` are computed
    from those actions with a graph, so the cost's gradient is that of the envelope
    theorem: exact at an optimum, with the actions held fixed elsewhere.
    """


def require_supported(
    planner: str,
    gradient: GradientStrategy,
    supported: Iterable[type[GradientStrategy]],
) -> GradientStrategy:
    """Return `gradient` if the planner supports it, else raise.

    Raises:
        UnsupportedGradientError: names the strategies that are supported.
    """
    kinds = tuple(supported)
    if not isinstance(gradient, kinds):
        names = ", ".join(f"{kind.__name__}()" for kind in kinds)
        given = gradient if isinstance(gradient, GradientStrategy) else repr(gradient)
        raise UnsupportedGradientError(
            f"gradient: {planner} supports {names}; got {given}"
        )
    return gradient
