"""Where the randomness of a plan comes from: a seed, a key per problem, and a count.

The count is that of the plans made so far in a warm-started chain. It travels in the
memory of the plans, so that each draws fresh noise and equal calls stay equal.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from diffplan._checks import is_traced, require_finite
from diffplan.errors import (
    ArgumentError,
    ShapeError,
    TensorTypeError,
    UnsupportedProblemError,
)
from diffplan.functional._random import drawn_seed, standard_normal, stream_keys
from diffplan.plan import Plan
from diffplan.planners.request import PlanRequest
from diffplan.problem import PlanningProblem

PLAN_INDEX = "plan_index"
"""The entry of `Plan.memory` that counts, int64 `[…, 1, 1]`; without it, none."""


class NoiseSource(nn.Module):
    """A planner, as far as its random numbers go: their shape, and how they are drawn.

    They are drawn once, before the pure core of a plan, or handed over by the user.
    """

    def noise_shape(self, request: PlanRequest) -> tuple[int, ...] | None:
        """Return the shape of one problem's random numbers (default: None, no noise).

        Args:
            request: Its noise is not drawn yet.
        """
        return None

    def noise_from_keys(self, request: PlanRequest) -> Tensor | None:
        """Draw all random numbers of a plan, before the pure core (default: N(0, 1)).

        A planner with another distribution overrides it, and draws by
        `diffplan.functional._random` from nothing but the keys: each problem then gets
        the same numbers in any batch.

        Args:
            request: With `keys`.

        Returns:
            `[B, *noise_shape]`, or None without a `noise_shape`.
        """
        shape = self.noise_shape(request)
        if shape is None or request.keys is None:
            return None
        return standard_normal(request.keys, shape, request.state)

    def plan_keys(
        self, request: PlanRequest, generator: torch.Generator | None
    ) -> Tensor | None:
        """Return the key of each problem's noise `[…]`; None where nothing is drawn.

        Args:
            request: As it was given: `keys` of the problems, for which None stands for
                the index in the flattened batch.
            generator: Gives the seed, and so advances, also where nothing is drawn;
                None stands for seed 0.
        """
        state = request.state
        own = type(self).noise_from_keys is not NoiseSource.noise_from_keys
        random = own or request.problem.is_random
        if random or self.noise_shape(request) is not None:
            start, keys = request.warm_start, request.keys
            return noise_keys(state, start, generator, keys)
        if generator is not None:
            drawn_seed(generator, state.device)
        return None

    def with_noise(self, request: PlanRequest) -> PlanRequest:
        """Return a request with its noise, drawn unless it is there already."""
        if request.noise is not None:
            return request
        return replace(request, noise=self.noise_from_keys(request))

    def check_noise(self, request: PlanRequest) -> None:
        """Raise if noise that was handed over is not such as `draw_noise` returns.

        Args:
            request: As it was given, `state` with any leading dimensions.

        Raises:
            TensorTypeError, ShapeError, NonFiniteError: says what is wrong.
        """
        require_noise(type(self).__name__, request, self.noise_shape(request))


def check_randomness(
    state: Tensor, generator: torch.Generator | None, keys: Tensor | None
) -> None:
    """Check what a planner is given to draw from; no number is looked at.

    Raises:
        TensorTypeError: `generator` is no generator, or `keys` are not int64.
        ShapeError: `keys` do not have the leading dimensions of `state`.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TensorTypeError(
            "generator: expected a torch.Generator, such as "
            f"torch.Generator().manual_seed(0), got {generator!r}"
        )
    if keys is None:
        return
    if not isinstance(keys, Tensor) or keys.dtype != torch.int64:
        kind = keys.dtype if isinstance(keys, Tensor) else type(keys).__name__
        raise TensorTypeError(
            f"keys: expected an int64 tensor, one key per problem, got {kind}"
        )
    if keys.shape != state.shape[:-1]:
        raise ShapeError(
            f"keys: expected {list(state.shape[:-1])}, the leading dimensions of "
            f"state, got {list(keys.shape)}"
        )


def refuse_both(generator: torch.Generator | None, keys: Tensor | None) -> None:
    """Refuse a source of random numbers beside noise that is already drawn.

    Raises:
        ArgumentError: `generator` or `keys` is given.
    """
    for name, source in (("generator", generator), ("keys", keys)):
        if source is not None:
            raise ArgumentError(
                f"{name}: expected None, for nothing is drawn where noise is handed "
                f"over; got both noise and {name}"
            )


def refuse_random(problem: PlanningProblem) -> None:
    """Refuse a problem whose particles are drawn from the keys of the same plan.

    Raises:
        UnsupportedProblemError: noise of the planner is not all that it draws.
    """
    if isinstance(problem, PlanningProblem) and problem.is_random:
        raise UnsupportedProblemError(
            "noise: expected a problem without randomness of its own, got a "
            f"{type(problem).__name__}, whose particles are drawn from the keys of "
            "each plan too; to repeat a plan give it the same generator seed and keys"
        )


def require_noise(
    planner: str,
    request: PlanRequest,
    shape: tuple[int, ...] | None,
    *,
    shared: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Check noise that was handed over; its numbers only where they can be looked at.

    Args:
        planner: Whose noise it is, for the message.
        request: With any leading dimensions.
        shape: Of one problem's noise; None stands for a planner that has none.
        shared: Whether the leading dimensions may be ones instead.
        dtype: None stands for that of the states.

    Raises:
        ArgumentError: the planner has none.
        TensorTypeError: it is no tensor, or not of the states' dtype and device.
        ShapeError: its shape differs; it would be broadcast.
        NonFiniteError: it holds NaN or infinity.
    """
    noise, state = request.noise, request.state
    if shape is None:
        raise ArgumentError(
            f"noise: expected None, for {planner} draws no random numbers (its "
            f"noise_shape is None), got {type(noise).__name__}"
        )
    if not isinstance(noise, Tensor):
        raise TensorTypeError(
            f"noise: expected a torch.Tensor, such as planner.draw_noise(problem, "
            f"state), got {type(noise).__name__}"
        )
    dtype = dtype or state.dtype
    if noise.dtype != dtype or noise.device != state.device:
        raise TensorTypeError(
            f"noise: expected {dtype} on {state.device}, as the state, got "
            f"{noise.dtype} on {noise.device}"
        )
    lead = state.shape[:-1]
    allowed = [[*lead, *shape]]
    if shared:
        allowed.append([*(1 for _ in lead), *shape])
    if list(noise.shape) not in allowed:
        raise ShapeError(
            f"noise: expected {' or '.join(map(str, allowed))} for {planner} and state "
            f"{list(state.shape)}, got {list(noise.shape)}"
        )
    if not is_traced(noise):
        require_finite("noise", noise)


def noise_keys(
    state: Tensor,
    warm_start: Plan | None = None,
    generator: torch.Generator | None = None,
    keys: Tensor | None = None,
) -> Tensor:
    """Return the key of each problem's noise, int64 `[…]`, for states `[…, S]`.

    Args:
        state: `[…, S]`.
        warm_start: The plan before, with the leading dimensions of `state`.
        generator: Gives the seed, and so advances; None stands for seed 0.
        keys: Of the problems `[…]`; None stands for the index in the flattened batch.
    """
    made = plans_made(warm_start)
    return stream_keys(
        state.shape[:-1],
        state.device,
        seed=0 if generator is None else generator,
        keys=keys,
        count=0 if made is None else made[..., 0, 0],
    )


def plans_made(plan: Plan | None) -> Tensor | None:
    """Return how many plans led to this one, itself included, int64 `[…, 1, 1]`."""
    return None if plan is None else plan.memory.get(PLAN_INDEX)


def counted(plan: Plan, warm_start: Plan | None) -> Plan:
    """Return the plan with its number in the chain of plans that it ends."""
    made = plans_made(warm_start)
    if made is None:
        made = torch.zeros_like(plan.status)[..., None, None]
    return replace(plan, memory={**plan.memory, PLAN_INDEX: made + 1})
