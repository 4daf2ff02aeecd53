"""Rows that fail leave the graph: what one element makes NaN spoils no other gradient.

A function of rows (batch elements, candidates) that share a parameter sums their
gradients to it. A row that became NaN or infinite contributes zero times NaN, which is
NaN, although no loss asks for it: masking its *result* is not enough. Its *inputs* have
to be harmless before the function is called with a graph. Which rows fail is known only
afterwards, so the function is called a second time if some did, with the inputs of a
row that did not in the place of theirs. Where nothing fails that costs one look.

Numbers may only be looked at from the host where that is free (`may_look`): elsewhere
`guarded_rollout` keeps what fails in one step out of the steps after it.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from diffplan.functional._derivatives import inside_transform, keep


def may_look(value: Tensor) -> bool:
    """Return whether a number may be looked at from the host for nothing.

    Not on an accelerator, which would have to be waited for, and not where there are no
    numbers: in `torch.compile`, in transforms of `torch.func`, and under a mode that
    sees each operation (fake tensors, `make_fx`).
    """
    if value.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not inside_transform() and torch._C._len_torch_dispatch_stack() == 0


class StandIns(NamedTuple):
    """Whose numbers stand in for rows that are not sound.

    Those of a sound row of the same element, which shares its data (a goal, a context,
    noise); for an element without one, those of the first element that has one.

    Attributes:
        sound: Which rows are, `[B, …]` bool.
        element: Whose rows stand in, `[B]`: each its own where it has a sound one.
        row: Which of them, `[B]`.
    """

    sound: Tensor
    element: Tensor
    row: Tensor

    @classmethod
    def of(cls, sound: Tensor) -> "StandIns":
        """Choose the first sound ones.

        Args:
            sound: `[B, …]` bool.
        """
        rows = sound.flatten(1) if sound.ndim > 1 else sound[:, None]
        # Not uint8: of a mask that is known to be all true while compiling, Inductor's
        # largest byte is at an index out of bounds (torch 2.13, 64 rows, AVX-512).
        some = rows.any(1).to(torch.int32)
        own = torch.arange(len(some), device=some.device)
        first = some.argmax() if len(some) else own  # of none there is no largest
        element = torch.where(some > 0, own, first)
        row = rows.to(torch.int32).argmax(1).index_select(0, element)
        return cls(sound, element, row)

    def put(self, value: Tensor) -> Tensor:
        """Return values `[B, …]`, those of stand-ins as constants.

        Args:
            value: With the leading dimensions of `sound`.
        """
        (count, *others), lead = self.sound.shape, self.sound.ndim
        rows = value.detach().reshape(count, math.prod(others), *value.shape[lead:])
        spare = rows[self.element, self.row]
        spare = spare.reshape(-1, *(1,) * (lead - 1), *value.shape[lead:])
        return select_rows(self.sound, (value,), (spare,))[0]


@runtime_checkable
class Guardable(Protocol):
    """Something whose rollouts may be guarded, as a `PlanningProblem`."""

    guarded: bool


GuardableT = TypeVar("GuardableT", bound=Guardable)


IsolableT = TypeVar("IsolableT")


@runtime_checkable
class Isolable(Protocol):
    """Something that has data of each element, as a `PlanningProblem`."""

    def standing_in(self: IsolableT, rows: StandIns) -> IsolableT:
        """Return this with the data of those that stand in."""
        ...


def guarded_copy(problem: GuardableT, like: Tensor) -> GuardableT:
    """Return a problem for work that has a graph: guarded where nobody may look.

    Args:
        problem: The problem.
        like: A tensor that decides whether numbers may be looked at.
    """
    if not torch.is_grad_enabled() or may_look(like):
        return problem
    guarded = copy.copy(problem)
    guarded.guarded = True
    return guarded


def isolated(
    function: Callable[..., tuple[Tensor, ...]],
    problem: Isolable,
    *inputs: Tensor,
    lead: int,
) -> tuple[Tensor, ...]:
    """Call a function of rows; a row whose outputs are not finite has no gradient.

    Its outputs are what the function returns for it, as constants, and nothing that is
    differentiated through the others is spoilt by it. Without a graph, and where
    numbers may not be looked at, this is a call of the function.

    Args:
        function: From a problem and inputs to outputs that all have the same leading
            dimensions, each leading index for itself; it may close over parameters. A
            pure function.
        problem: With the data of each element, the first of the leading dimensions.
        inputs: The other arguments.
        lead: How many dimensions lead.
    """
    outputs = function(problem, *inputs)
    tracked = torch.is_grad_enabled() and any(part.requires_grad for part in outputs)
    if not tracked or known_finite(outputs) or not may_look(outputs[0]):
        return outputs
    ok = finite_rows(outputs, lead)
    if not bool(ok.any()):
        return tuple(map(without_gradient, outputs))
    rows = StandIns.of(ok)
    again = function(problem.standing_in(rows), *map(rows.put, inputs))
    return select_rows(ok, again, tuple(part.detach() for part in outputs))


def without_gradient(value: Tensor) -> Tensor:
    """Return a constant that still counts as differentiable.

    A loss over a batch that failed as a whole then has the gradient zero, as one over a
    batch that failed in part has, by all leaves of the graph: parameters among them.
    """
    constant: Tensor = _Constant.apply(value.detach(), *_leaves(value))
    return constant


def _leaves(value: Tensor) -> list[Tensor]:
    """Return the tensors without history that a tensor is computed from.

    A derivative of none would be walked back to them through what failed, by functions
    that make zeros of it and multiply those with infinity.
    """
    if value.is_leaf:
        return [value] if value.requires_grad else []
    found, waiting, seen = [], [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            found.append(cast(Any, node).variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def known_finite(values: tuple[Tensor, ...]) -> bool:
    """Return whether numbers may be looked at, and all are finite (their sum too)."""
    if not may_look(values[0]):
        return False
    return math.isfinite(sum(float(value.detach().sum()) for value in values))


def finite_rows(values: tuple[Tensor, ...], lead: int) -> Tensor:
    """Return where all numbers of a row are finite, `[…]` bool with `lead` dimensions.

    Numbers so large that their sum overflows count as infinite.
    """
    sums = [
        value.detach() if value.dim() == lead else value.detach().flatten(lead).sum(-1)
        for value in values
    ]
    return torch.isfinite(sums[0] if len(sums) == 1 else torch.stack(sums).sum(0))


def select_rows(
    ok: Tensor, values: tuple[Tensor, ...], others: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return values where rows are ok `[…]`, and the others elsewhere."""
    return tuple(
        torch.where(
            ok.reshape(ok.shape + (1,) * (value.dim() - ok.dim())), value, other
        )
        for value, other in zip(values, others, strict=True)
    )


def guarded_rollout(
    dynamics: Callable[..., Tensor],
    state: Tensor,
    actions: Tensor,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Roll out, and go on from the last finite state where the next one is not.

    What becomes NaN in one step then never enters another one: the gradient of shared
    parameters is spoilt only by dynamics that are NaN inside for finite arguments and
    have a derivative of their own there (as the square root of a negative number).

    Args:
        dynamics: See `rollout`.
        state: `[…, S]`.
        actions: `[…, T, A]`.
        times: See `rollout`.

    Returns:
        States `[…, T+1, S]`, all finite if the given one is, and how far they are those
        of the rollout `[…, T+1]` bool.
    """
    states, known = [state], [torch.ones_like(state[..., 0], dtype=torch.bool)]
    inputs = [actions.movedim(-2, 0).contiguous().unbind(0)]
    if times is not None:
        inputs.append(times.unbind(0))
    for given in zip(*inputs, strict=True):
        following = dynamics(states[-1], *given)
        finite = following.detach().abs().amax(-1) < torch.inf  # False for NaN
        known.append(known[-1] & finite)
        states.append(torch.where(finite.unsqueeze(-1), following, states[-1]))
    return torch.stack(states).movedim(0, -2), torch.stack(known).movedim(0, -1)


def guarded_evaluation(
    dynamics: Callable[..., Tensor],
    objective: Callable[[Tensor, Tensor], Tensor],
    state: Tensor,
    actions: Tensor,
    times: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return states `[…, T+1, S]` and cost `[…]` of a `guarded_rollout`.

    What is not known is NaN, without a gradient; the objective never sees it.

    Args:
        dynamics: See `rollout`.
        objective: `(states, actions) → cost`.
        state: `[…, S]`.
        actions: `[…, T, A]`.
        times: See `rollout`.
    """
    states, known = guarded_rollout(dynamics, state, actions, times)
    cost = torch.where(known[..., -1], objective(states, actions), torch.nan)
    return torch.where(known.unsqueeze(-1), states, torch.nan), cost


class _Constant(torch.autograd.Function):
    """The first argument as a constant; see `without_gradient`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *depends_on: Tensor) -> Tensor:
        del depends_on
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del output
        keep(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        _, *depends_on = ctx.saved_tensors
        return None, *(torch.zeros_like(value) for value in depends_on)

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> Tensor:
        return torch.zeros_like(ctx.saved_tensors[0])
