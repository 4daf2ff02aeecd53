"""Image collocation: images and actions are the variables instead of states."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffplan._user_functions import ask, call, require_result
from diffplan.capabilities import (
    Decoding,
    Encoding,
    Observing,
    Scaling,
    knows,
    model_behind,
)
from diffplan.errors import ArgumentError, UnsupportedProblemError
from diffplan.planners.collocation._first_order import (
    FirstOrderCollocation,
    RelaxedProblem,
)
from diffplan.planners.collocation._residuals import ActionViolation, Residuals
from diffplan.planners.collocation.multipliers import DualAscent
from diffplan.problem import PlanningProblem

_ANY_LEAD = "a model sees and shows states with any leading dimensions"


class ImageCollocation(FirstOrderCollocation):
    """Collocation over what will be seen, images or vectors, instead of states.

    A model filters the planned observations, x_t = observe(x_{t-1}, u_{t-1}, o_t) from
    the given state on; the cost is that of these states, and the constraint of a step
    is o_{t+1} = decode(f(x_t, u_t)). As in the paper constraints are pairwise: slopes
    take x_{t-1} for a constant. The derivative of a plan does not.

    Observations are moved in network units where the model tells them (`scale` and
    `unscale`, as `RSSM`), else as they are. A pixel is one number of thousands, so this
    is slow: it is the paper's baseline, which `LatCo` is meant to beat.

    `plan.diagnostics`: as `LatCo`'s; `planned_states` are the filtered ones.
    `plan.memory`: `observations` `[…, T, numbers of an observation]`, in network units,
    and `multipliers`.

    Args:
        horizon: T, at least 1.
        model: What sees and shows: an object with `decode`, and with `observe` or
            `encode`, see `diffplan.capabilities`. A module becomes a submodule. None
            stands for the model behind the problem's dynamics.
        options: Arguments of `FirstOrderLatCo`. The paper has 5,000 `iterations` with a
            `step_size` of 0.02; `dynamics_tolerance` is that of
            ‖o_{t+1} - decode(f(x_t, u_t))‖².

    Raises:
        ArgumentError: a setting is out of range, or the model cannot see and show.
        UnsupportedGradientError: `gradient` is another strategy.

    References:
        Rybkin et al. 2021, LatCo (arXiv:2106.13229), appendix D, "Image collocation".

    Example:
        >>> import diffplan as dp
        >>> model = dp.models.RSSM((5,), action_dim=2, belief_size=8, state_size=4)
        >>> model = model.requires_grad_(False)
        >>> problem = dp.PlanningProblem(
        ...     model.step,
        ...     dp.objectives.NegativeReturn(model.reward),
        ...     dp.Box([-1.0, -1.0], [1.0, 1.0]),
        ... )
        >>> state = model.initial_state((3,))
        >>> dp.ImageCollocation(4, iterations=2)(problem, state).actions.shape
        torch.Size([3, 4, 2])
    """

    def __init__(
        self,
        horizon: int,
        model: object | None = None,
        **options: Any,
    ) -> None:
        super().__init__(horizon, **options)
        if model is not None and _missing(model):
            raise ArgumentError(
                f"model: expected an object with decode and observe, or encode, got "
                f"{type(model).__name__} without {_missing(model)}"
            )
        self.model: Any = model

    @classmethod
    def released(cls, horizon: int = 30, **options: Any) -> "ImageCollocation":
        """Return image collocation as the authors' configuration has it.

        5,000 steps of 0.02; after each of them λ grows by the violation and ν by 100
        times it, no tolerance taken off; Σ max(0, a² - 1) as violation of the limits.
        """
        rules = DualAscent(1.0, slack=False), DualAscent(100.0, slack=False)
        given = {
            "iterations": 5000,
            "step_size": 0.02,
            "dual_every": 1,
            "fall_back": False,
            "multiplier_rules": rules,
            "initial_multipliers": (1.0, 1.0),
        }
        return cls(horizon, **{**given, **options})

    @classmethod
    def paper(cls, horizon: int = 30, **options: Any) -> "ImageCollocation":
        """Return image collocation as the paper prints it.

        As `FirstOrderLatCo.paper`, with a step size of 0.02.
        """
        return super().paper(horizon, **{"step_size": 0.02, **options})

    def check_problem(self, problem: PlanningProblem) -> None:
        """Raise if there is no model that sees and shows."""
        self._model_of(problem)

    def relaxed(self, problem: PlanningProblem, state: Tensor) -> RelaxedProblem:
        """Return the problem whose variables are observations."""
        model = self._model_of(problem)
        return _SeenProblem(problem, state, self.action_violation, model)

    def _model_of(self, problem: PlanningProblem) -> Any:
        if self.model is not None:
            return self.model
        model = model_behind(problem.dynamics)
        if _missing(model):
            raise UnsupportedProblemError(
                f"dynamics: {type(self).__name__} needs a model with decode and "
                f"observe, or encode, got {type(model).__name__} without "
                f"{_missing(model)}; one that the dynamics hide can be handed over, "
                f"{type(self).__name__}(horizon, model)"
            )
        return model


class _SeenProblem(RelaxedProblem):
    """The same trajectory problem in terms of observations, flat `[B, T, size]`."""

    name = "observations"

    def __init__(
        self,
        problem: PlanningProblem,
        state: Tensor,
        action_violation: ActionViolation,
        model: Any,
    ) -> None:
        super().__init__(problem, state, action_violation)
        self.model = model
        with torch.no_grad():
            shown = call("model:", model.decode, state, advice=_ANY_LEAD)
        lead = state.shape[:-1]  # any number of dimensions, for the shape of noise
        size = shown.shape[len(lead) :] if isinstance(shown, Tensor) else (-1,)
        require_result("model:", model.decode, shown, (*lead, *size), like=state)
        self.shape = shown.shape[len(lead) :]

    @property
    def size(self) -> int:
        return self.shape.numel()

    def represent(self, states: Tensor) -> Tensor:
        expected = (*states.shape[:-1], *self.shape)
        shown = self._ask(self.model.decode, states, expected=expected)
        if knows(self.model, Scaling):
            shown = self._ask(self.model.scale, shown, expected=expected)
        return shown.flatten(-len(self.shape)) if self.shape else shown[..., None]

    def states_of(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        return self._filtered(state, seen, variables)[:, 1:]

    def held(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        """Return the states x_0 … x_{T-1} `[B, T, S]` that filtering goes on from."""
        return self._filtered(state, seen[:, :-1], variables)

    def measure(
        self, held: Tensor, state: Tensor, seen: Tensor, variables: Tensor
    ) -> Residuals:
        actions = self.units.actions(variables)
        # All steps at once: each sees the state before it as a constant.
        states = self._observe(held, actions, seen)
        visited = torch.cat([state[:, None], states], dim=1)
        times = self.problem.times(0, actions.shape[1], state)
        following = self.problem.step(visited[:, :-1], actions, times)
        cost = self.problem.trajectory_cost(visited, actions)
        defect = seen - self.represent(following)
        return self._residuals(defect, variables, cost, self._breach(actions))

    def _filtered(self, state: Tensor, seen: Tensor, variables: Tensor) -> Tensor:
        """Return the given state and those after each of some first observations."""
        actions, states = self.units.actions(variables), [state]
        for step, part in enumerate(seen.unbind(1)):
            states.append(self._observe(states[-1], actions[:, step], part))
        return torch.stack(states, dim=1)

    def _observe(self, state: Tensor, action: Tensor, seen: Tensor) -> Tensor:
        observation = seen.reshape(*seen.shape[:-1], *self.shape)
        if knows(self.model, Scaling):
            shape = observation.shape
            observation = self._ask(self.model.unscale, observation, expected=shape)
        if knows(self.model, Observing):
            given = state, action, observation
            return self._ask(self.model.observe, *given, expected=state.shape)
        return self._ask(self.model.encode, observation, expected=state.shape)

    def _ask(
        self, method: Callable[..., object], *inputs: Tensor, expected: Sequence[int]
    ) -> Tensor:
        return ask("model:", method, *inputs, expected=expected, advice=_ANY_LEAD)


def _missing(model: object) -> str:
    """Return what a model would need to see and to show, in words; empty if nothing."""
    lacks = [] if knows(model, Decoding) else ["decode"]
    if not (knows(model, Observing) or knows(model, Encoding)):
        lacks.append("observe or encode")
    return " and ".join(lacks)
