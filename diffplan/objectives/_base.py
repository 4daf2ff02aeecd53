"""Objectives: what a plan costs, with the structure that second-order planners use.

Any callable `(states […, T+1, S], actions […, T, A]) → cost […]` is an objective. Two
refinements say more about it:

* `StageObjective`: cost = initial(x_0, u_0) + Σ_{t=1}^{T-1} running(x_t, u_t)
  + terminal(x_T);
* `ResidualObjective`: each of those terms is ½‖residual‖², so that Gauss-Newton
  methods (LatCo, shooting Gauss-Newton) apply.

Every planner takes any objective; one that needs a refinement says so. An objective
that is `Quadratizable` besides knows its own second derivatives; a subclass with other
terms has to say them anew, or they come by autodiff.

A term that depends on the step has an argument `time`, see `diffplan._segments`.

What a term returns is checked wherever it is called, by a planner, a sum or a user: a
cost has the leading dimensions of its state and no others. Nothing is broadcast.
"""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffplan._checked_model import ALIGNED
from diffplan._segments import at, split, step_numbers, takes_time
from diffplan._user_functions import call, require_result
from diffplan.capabilities import Quadratizable as Quadratizable
from diffplan.errors import ShapeError

Term = Callable[..., Tensor]
Forms = tuple[Tensor, Tensor, Tensor, Tensor]
"""Hessian and gradient of the cost of a step by (u, x), and of the end by x."""


def _checked(term: Term) -> Term:
    """Return the method with a check of what it returns."""
    features = (-1,) if term.__name__.endswith("residual") else ()

    @functools.wraps(term)
    def checked(
        self: "StageObjective", state: Tensor, *others: Any, **named: Any
    ) -> Tensor:
        function = functools.partial(term, **named) if named else term
        result = call("objective:", function, self, state, *others, advice=ALIGNED)
        lead = (*state.shape[:-1], *features)
        return require_result("objective:", checked, result, lead, like=state)

    checked.is_checked = True  # type: ignore[attr-defined]
    return checked


def relays(term: Term) -> Term:
    """Mark a term that only calls terms of the same kind.

    Those check what they return and say whether they depend on the step, so that this
    one needs no check and passes the time on.
    """
    term.is_checked = True  # type: ignore[attr-defined]
    term.is_relay = True  # type: ignore[attr-defined]
    return term


def is_relay(cls: type, name: str) -> bool:
    """Return whether the term of that name only calls terms of the same kind."""
    return getattr(inspect.getattr_static(cls, name, None), "is_relay", False)


TERMS = tuple(
    f"{when}_{what}"
    for what in ("cost", "residual")
    for when in ("initial", "running", "terminal")
)
"""The methods of stage and residual objectives whose results are checked."""

_EXPANSIONS = ("quadratize", "parts")
"""What an objective may know of its terms, see `Quadratizable` and `Summing`."""


class StageObjective(nn.Module, ABC):
    """A cost that is a sum over time steps.

    A subclass defines `running_cost` and `terminal_cost`, both for any leading
    dimensions; `initial_cost` defaults to `running_cost` and is there for costs paid
    on arrival, which count no given state. Each returns one cost `[…]` per state, in
    the state's dtype; anything else raises a `ShapeError` or a `TensorTypeError`.

    A term may have one more argument, `time`: the numbers of the steps `[steps]`; its
    states are then `[…, steps, S]` (see `diffplan._segments`). For `terminal_cost` that
    is one step, T. A term
    without it must treat each step for itself, wherever it stands; the first plan for
    states of a new kind tries that.

    Attributes:
        timed_terms: Names of the terms that take the time; found from their arguments.
        uses_time: Whether the cost of a step depends on its number.
        same_start: Whether the first step costs what the others do.
        sums_steps: Whether the cost is the sum of the terms: False where a subclass
            defines `forward`. Costs are then counted over whole trajectories, and
            planners that need the terms refuse the objective.
        only_horizon: The one horizon that there are data for; None for any.
        per_problem: Names of tensors that may have a value for each problem of a batch,
            with the number of dimensions of one value; see `diffplan._problem_data`.

    Example:
        >>> import torch
        >>> class Late(StageObjective):
        ...     def running_cost(self, state, action, time):
        ...         return time * state[..., 0]
        ...
        ...     def terminal_cost(self, state):
        ...         return 10 * state[..., 0]
        >>> Late()(torch.ones(4, 1), torch.zeros(3, 1))  # 0 + 1 + 2 + 10
        tensor(13.)
    """

    timed_terms: ClassVar[frozenset[str]] = frozenset()
    uses_time: bool = False
    same_start: bool = True
    sums_steps: ClassVar[bool] = True
    only_horizon: int | None = None
    per_problem: ClassVar[Mapping[str, int]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Put a check around the terms, and find out what they depend on."""
        super().__init_subclass__(**arguments)
        for name in TERMS:
            term = inspect.getattr_static(cls, name, None)
            done = getattr(term, "is_checked", False)
            abstract = getattr(term, "__isabstractmethod__", False)
            if isinstance(term, FunctionType) and not (done or abstract):
                setattr(cls, name, _checked(term))
        timed = [name for name in TERMS if takes_time(getattr(cls, name, None))]
        cls.timed_terms = frozenset(timed)
        cls.uses_time = not all(is_relay(cls, name) for name in timed)
        cls.same_start = all(is_relay(cls, name) for name in cls._start())
        cls.sums_steps = cls.forward is StageObjective.forward
        # What is known of the terms of a base is not true of other terms.
        if not vars(cls).keys().isdisjoint((*TERMS, "forward")):
            for name in set(_EXPANSIONS) - vars(cls).keys():
                setattr(cls, name, None)

    @classmethod
    def _start(cls) -> tuple[str, ...]:
        """Names of the terms that must be relays if the first step is like the rest."""
        return ("initial_cost",)

    @abstractmethod
    def running_cost(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the cost `[…]` of taking `action` `[…, A]` in `state` `[…, S]`."""

    @abstractmethod
    def terminal_cost(self, state: Tensor) -> Tensor:
        """Return the cost `[…]` of ending in `state` `[…, S]`."""

    @relays
    def initial_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return the cost `[…]` of the first action, taken in the given state."""
        return self.timed_term("running_cost", time)(state, action)

    def forward(
        self,
        states: Float[Tensor, "*batch steps S"],
        actions: Float[Tensor, "*batch T A"],
    ) -> Float[Tensor, "*batch"]:
        """Return the cost of a whole trajectory."""
        check_trajectory(states, actions)
        self._check_horizon(actions.shape[-2])
        cost = self.segment_cost(states[..., :-1, :], actions, 0)
        return cost + self.end_cost(states[..., -1, :], actions.shape[-2])

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(
            self,
            states: Float[Tensor, "*batch steps S"],
            actions: Float[Tensor, "*batch T A"],
        ) -> Float[Tensor, "*batch"]: ...

    def timed_term(self, name: str, time: Tensor | None) -> Term:
        """Return a term that is told the time, if it takes it.

        Args:
            name: Such as `running_cost`.
            time: Numbers of the steps, `[steps]` or `[]`; None if they are not known.
        """
        return at(getattr(self, name), name in self.timed_terms, time)

    def stage_terms(
        self, what: str, first: int, count: int, like: Tensor
    ) -> list[tuple[Term, slice]]:
        """Return the terms of a segment and the steps that each of them is asked about.

        Args:
            what: "cost" or "residual".
            first: The number of the segment's first step.
            count: How many steps it has.
            like: A tensor on the device.
        """
        initial = None if self.same_start else f"initial_{what}"
        parts = split(initial, f"running_{what}", first, count)
        if not self.uses_time:
            return [(getattr(self, name), where) for name, where in parts]
        return [
            (self.timed_term(name, step_numbers(first, where, like)), where)
            for name, where in parts
        ]

    def end_term(self, what: str, horizon: int, like: Tensor) -> Term:
        """Return the term of the last state, which stands at step `horizon`."""
        self._check_horizon(horizon)
        name = f"terminal_{what}"
        if not self.uses_time:
            return getattr(self, name)
        time = step_numbers(horizon, slice(0, 1), like).squeeze(0)
        return self.timed_term(name, time)

    def _check_horizon(self, horizon: int) -> None:
        # Data that are indexed beyond their end would stop a GPU for good.
        if self.only_horizon not in (None, horizon):
            raise ShapeError(
                f"horizon: {type(self).__name__} has data for {self.only_horizon} "
                f"steps, the last state comes on top, got {horizon}"
            )

    def segment_cost(self, states: Tensor, actions: Tensor, first: int) -> Tensor:
        """Return the cost `[…]` of some steps of a trajectory in a row.

        Args:
            states: Those that the actions are taken in, `[…, steps, S]`.
            actions: `[…, steps, A]`, at least one.
            first: The number of the first of these steps in the whole horizon.
        """
        terms = self.stage_terms("cost", first, actions.shape[-2], states)
        if len(terms) == 1:  # of all steps: planners ask step by step, most of the time
            costs = [terms[0][0](states, actions)]
        else:
            costs = [term(states[..., w, :], actions[..., w, :]) for term, w in terms]
        sums = [
            cost.squeeze(-1) if cost.shape[-1] == 1 else cost.sum(dim=-1)
            for cost in costs
        ]
        return sums[0] if len(sums) == 1 else sums[0] + sums[1]

    def end_cost(self, state: Tensor, horizon: int) -> Tensor:
        """Return the cost `[…]` of ending in `state` `[…, S]` after `horizon` steps."""
        return self.end_term("cost", horizon, state)(state)


class ResidualObjective(StageObjective):
    """A cost ½ Σ ‖residual‖² over time steps, for Gauss-Newton planners.

    A subclass defines `running_residual` and `terminal_residual`, each returning
    `[…, R]` with the leading dimensions of its state and an R of its own, zero
    included. As the terms of a `StageObjective` they may take the `time`.
    """

    @abstractmethod
    def running_residual(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the residual `[…, R]` of taking `action` in `state`."""

    @abstractmethod
    def terminal_residual(self, state: Tensor) -> Tensor:
        """Return the residual `[…, R]` of ending in `state`."""

    @relays
    def initial_residual(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return the residual `[…, R]` of the first action (default: running)."""
        return self.timed_term("running_residual", time)(state, action)

    @relays
    def running_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return ½‖running residual‖² `[…]`."""
        return half_square(self.timed_term("running_residual", time)(state, action))

    @relays
    def terminal_cost(self, state: Tensor, time: Tensor | None = None) -> Tensor:
        """Return ½‖terminal residual‖² `[…]`."""
        return half_square(self.timed_term("terminal_residual", time)(state))

    @relays
    def initial_cost(
        self, state: Tensor, action: Tensor, time: Tensor | None = None
    ) -> Tensor:
        """Return ½‖initial residual‖² `[…]`."""
        return half_square(self.timed_term("initial_residual", time)(state, action))

    @classmethod
    def _start(cls) -> tuple[str, ...]:
        # A cost of its own for the running steps is not that of the first residual.
        return ("initial_cost", "initial_residual", "running_cost")


def half_square(residual: Float[Tensor, "*batch R"]) -> Float[Tensor, "*batch"]:
    """Return ½‖residual‖²."""
    size = residual.shape[-1]
    if residual.device.type == "cpu" and 0 < size <= 4 and residual.numel() > 2**13:
        # A sum over rows of a few numbers takes twice as long as one column by column.
        first, *others = residual.square().unbind(-1)
        return 0.5 * sum(others, first)
    return 0.5 * residual.square().sum(dim=-1)


def root_of_weight(weight: Tensor, like: Tensor) -> Tensor:
    """Return √weight, by which ½‖√w r‖² has its gradient ½ r² by a weight of zero too.

    There √ has an infinite derivative, and a root of zero would multiply it by zero. A
    weight that is learned stops short of that: the root of its zero is 1e-12.

    Args:
        weight: As it is held, for within a transform of `torch.func` what is made of it
            does not show that it is learned. NaN where it is below zero.
        like: A tensor of the dtype.
    """
    if weight.requires_grad:
        weight = torch.where(weight == 0, weight + 1e-24, weight)
    return weight.to(like.dtype).sqrt()


def no_residual(state: Tensor) -> Tensor:
    """Return a residual of size zero `[…, 0]` for a state `[…, S]`."""
    return state[..., :0]


def no_end(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return Hessian and gradient of an end without a cost, for `[…, T+1, S]`."""
    last = states[..., -1, :]
    none = last.new_zeros(last.shape[-1:] * 2)
    return none.expand(*last.shape, -1), last.new_zeros(last.shape)


def check_trajectory(states: Tensor, actions: Tensor) -> None:
    """Check that states `[…, T+1, S]` and actions `[…, T, A]` belong together.

    Raises:
        ShapeError: the time or leading dimensions do not match.
    """
    if states.ndim < 2 or actions.ndim < 2:
        raise ShapeError(
            "states, actions: expected […, T+1, S] and […, T, A], got "
            f"{list(states.shape)} and {list(actions.shape)}"
        )
    if states.shape[-2] != actions.shape[-2] + 1:
        raise ShapeError(
            f"states: expected {actions.shape[-2] + 1} steps (T+1) for "
            f"{actions.shape[-2]} actions, got {states.shape[-2]}"
        )
    if states.shape[:-2] != actions.shape[:-2]:
        raise ShapeError(
            "states, actions: expected the same leading dimensions, got "
            f"{list(states.shape)} and {list(actions.shape)}"
        )
