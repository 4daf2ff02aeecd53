"""The linear system of one Gauss-Newton step along a chain, and its derivative.

A collocation step moves all states and actions of a trajectory at once. Its unknowns
are increments x_1..x_T of the states and u_0..u_{T-1} of the actions (x_0 = 0: the
first state is given), and it minimises::

    sum_t  w_t |e_t|^2 + |G_t (x_t, u_t)|^2 + sum_i a_{t,i} u_{t,i}^2
    + |G_T x_T|^2 + damping (|x|^2 + |u|^2) - 2 b'(x, u),
    e_t = x_{t+1} - A_t x_t - B_t u_t + c_t.

With the costates nu_t = w_t e_t as further unknowns this is one symmetric system::

    [ H   J' ] [ x,u ]   [  b ]          H: stage curvature and damping,
    [ J -1/w ] [  nu ] = [ -c ]          J: the dynamics rows x_{t+1} - A x_t - B u_t,

so its derivative needs no derivative of a factorisation: a second solve with the same
factor gives the adjoint, and each matrix gets outer products of the two solutions. That
costs O(T n^2) where differentiating the recursion costs O(T n^3), stays accurate for
every w (it never forms w J'J), can be repeated for higher derivatives, and keeps an
element that could not be factored away from everybody else's gradient.

Symbols: A, B state and action Jacobian; w transition weight; G stage Jacobians; a
action curvature; c defect; b linear term; T horizon, S state and A action dimension.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffplan._shapes import Precise, fitted
from diffplan.functional._derivatives import apply, is_followed, keep, or_zero
from diffplan.functional._rollout import inside_transform


class ChainSystem(NamedTuple):
    """The matrices of a chain's least-squares step (see the module's formula).

    Attributes:
        state_jacobian: A_t, `[…, T, S, S]`.
        action_jacobian: B_t, `[…, T, S, A]`.
        transition_weight: w_t > 0, `[…, T]`.
        stage_state_jacobian: State part of G_t, `[…, T, R, S]`; R may be 0.
        stage_action_jacobian: Action part of G_t, `[…, T, R, A]`.
        terminal_jacobian: G_T, `[…, R', S]`; R' may be 0.
        action_curvature: a_t >= 0, `[…, T, A]`.
        damping: Added to the diagonal, `[…]`.
    """

    state_jacobian: Precise[Tensor, "*batch T S S"]
    action_jacobian: Precise[Tensor, "*batch some=T S A"]
    transition_weight: Precise[Tensor, "*batch T"]
    stage_state_jacobian: Precise[Tensor, "*batch T R S"]
    stage_action_jacobian: Precise[Tensor, "*batch T R A"]
    terminal_jacobian: Precise[Tensor, "*batch _ S"]
    action_curvature: Precise[Tensor, "*batch T A"]
    damping: Precise[Tensor, "*batch"]

    def flattened(self) -> "ChainSystem":
        """Return the same system with all leading batch dimensions as one."""
        lead = self.damping.dim()
        tensors = tuple(self)
        if inside_transform():
            # sweeps write in place, and what vmap maps cannot be written into what it
            # does not: a zero that is mapped if any tensor is
            zero = sum(tensor.flatten()[:0].sum() for tensor in tensors)
            tensors = tuple(tensor + zero for tensor in tensors)
        return ChainSystem(*(flatten_batch(tensor, lead) for tensor in tensors))

    def to(self, dtype: torch.dtype) -> "ChainSystem":
        """Return the same system in another precision."""
        return ChainSystem(*(tensor.to(dtype) for tensor in self))

    def seed(self) -> Tensor:
        """No number at all, made from every tensor: mapped by `vmap` if any of them is.

        Tensors made from it can be written into.
        """
        return sum((tensor.flatten()[:0] for tensor in self), self.damping[:0])

    def detach(self) -> "ChainSystem":
        """Return the same numbers without their history."""
        return ChainSystem(*(tensor.detach() for tensor in self))


class ChainRightHandSide(NamedTuple):
    """What the step answers to.

    Attributes:
        defect: c_t = x_{t+1} - f(x_t, u_t) of the current trajectory, `[…, T, S]`.
        states: b for x_1..x_T (minus the gradient of the other costs), `[…, T, S]`.
        actions: b for u_0..u_{T-1}, `[…, T, A]`.
    """

    defect: Precise[Tensor, "*batch T S"]
    states: Precise[Tensor, "*batch T S"]
    actions: Precise[Tensor, "*batch T A"]

    def flattened(self, system: ChainSystem, batch: torch.Size) -> "ChainRightHandSide":
        """Return the same, flattened as a system that it must fit, in its precision.

        Args:
            system: Flattened.
            batch: The leading dimensions before.
        """
        _, horizon, size, width = (like := system.action_jacobian).shape
        fields = zip(self._fields, self, (size, size, width), strict=True)
        given = (fitted(n, f, (*batch, horizon, last), like) for n, f, last in fields)
        return ChainRightHandSide(*(flatten_batch(f, len(batch)) for f in given))


class ChainSolution(NamedTuple):
    """A step along the chain.

    Attributes:
        states: Increments of x_1..x_T, `[…, T, S]`.
        actions: Increments of u_0..u_{T-1}, `[…, T, A]`.
        costates: w_t e_t, the pull of transition t after the step, `[…, T, S]`.
        ok: Whether the element's system was positive definite and its solution
            finite, `[…]` bool. Where it is False everything else is zero.
    """

    states: Tensor
    actions: Tensor
    costates: Tensor
    ok: Tensor

    def unflattened(self, batch: torch.Size, dtype: torch.dtype) -> "ChainSolution":
        """Return the same with the caller's leading dimensions and precision."""
        states, actions, costates = (
            tensor.to(dtype).view(*batch, *tensor.shape[1:]) for tensor in self[:3]
        )
        return ChainSolution(states, actions, costates, self.ok.view(batch))


RawSolve = Callable[
    [ChainSystem, tuple[Tensor, ...], ChainRightHandSide],
    tuple[Tensor, Tensor, Tensor],
]
"""(system, factor tensors, right-hand side) -> states, actions, costates.

All tensors have exactly one leading batch dimension. Needs no derivative of its own.
"""


def solve_chain(
    solve: RawSolve,
    system: ChainSystem,
    factor: tuple[Tensor, ...],
    factor_ok: Tensor,
    rhs: ChainRightHandSide,
) -> ChainSolution:
    """Solve with a given factor, differentiably in the system and right-hand side.

    Args:
        solve: How this kind of factor solves.
        system: The flattened system that `factor` belongs to.
        factor: Tensors of the factorisation, without history.
        factor_ok: Status of the factorisation, `[B]` bool.
        rhs: Flattened right-hand side.
    """
    tensors = (*system, *rhs)
    if not is_followed(*tensors):
        return _masked_solve(solve, system, factor, factor_ok, rhs)
    arguments = (solve, *tensors, factor_ok, *factor)
    return ChainSolution(*apply(_SolveChain, _SolveChainReverse, *arguments))


def chain_residual(
    system: ChainSystem,
    rhs: ChainRightHandSide,
    solution: tuple[Tensor, Tensor, Tensor],
) -> ChainRightHandSide:
    """Return what a solution leaves of the right-hand side; solve for it to correct it.

    Evaluated in the symmetric form with costates, where nothing is squared: in exact
    arithmetic zero, in floating point the backward error of the solve.

    Args:
        system: Flattened system.
        rhs: Flattened right-hand side.
        solution: Increments of the states and actions, and costates.
    """
    after, actions, costates = solution
    before = with_given_state(after)[:, :-1]
    by_state, by_action = system.stage_state_jacobian, system.stage_action_jacobian
    damping = system.damping[:, None, None]
    stage = times(before, by_state.mT) + times(actions, by_action.mT)
    end = times(
        times(after[:, -1], system.terminal_jacobian.mT), system.terminal_jacobian
    )
    pull = times(costates, system.state_jacobian) - times(stage, by_state)
    inflow = torch.cat((pull[:, 1:], -end[:, None]), 1)
    predicted = times(before, system.state_jacobian.mT)
    predicted = predicted + times(actions, system.action_jacobian.mT)
    return ChainRightHandSide(
        defect=rhs.defect
        + (after - predicted)
        - costates / system.transition_weight[..., None],
        states=rhs.states + inflow - damping * after - costates,
        actions=rhs.actions
        + times(costates, system.action_jacobian)
        - times(stage, by_action)
        - (system.action_curvature + damping) * actions,
    )


def _masked_solve(
    solve: RawSolve,
    system: ChainSystem,
    factor: tuple[Tensor, ...],
    factor_ok: Tensor,
    rhs: ChainRightHandSide,
) -> ChainSolution:
    states, actions, costates = solve(system, factor, rhs)
    ok = factor_ok & _finite(states) & _finite(actions) & _finite(costates)
    return ChainSolution(
        zero_unless(ok, states), zero_unless(ok, actions), zero_unless(ok, costates), ok
    )


class _SolveChainReverse(torch.autograd.Function):
    """The solve as one node of the graph; its backward is another solve."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solve: RawSolve, *tensors: Tensor) -> tuple[Tensor, ...]:
        system, rhs, factor_ok, factor = _unpack(tensors)
        return tuple(_masked_solve(solve, system, factor, factor_ok, rhs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.mark_non_differentiable(output[3])
        ctx.solve = inputs[0]
        keep(ctx, *inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, states, actions, costates, ok = ctx.saved_tensors
        system, _, _, factor = _unpack(tuple(tensors))
        solution = ChainSolution(states, actions, costates, ok)
        adjoint = solve_chain(
            ctx.solve,
            system,
            factor,
            ok,
            ChainRightHandSide(
                defect=-cotangents[2], states=cotangents[0], actions=cotangents[1]
            ),
        )
        needed = ctx.needs_input_grad[1:9]
        gradients = _system_gradients(system, solution, adjoint, needed)
        return (
            None,
            *gradients,
            -adjoint.costates,
            adjoint.states,
            adjoint.actions,
            *(None for _ in range(1 + len(factor))),
        )


class _SolveChain(_SolveChainReverse):
    """The same with forward mode: one more solve, for what the tangents leave."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, states, actions, costates, ok = ctx.saved_tensors
        system, _, _, factor = _unpack(tuple(tensors))
        moves = or_zero(tangents[1:12], tensors[:11])
        solution = ChainSolution(states, actions, costates, ok)
        left = _left_by_tangents(system, solution, moves)
        moved = solve_chain(ctx.solve, system, factor, ok, left)
        return moved.states, moved.actions, moved.costates, None


def _left_by_tangents(
    system: ChainSystem, solution: ChainSolution, tangents: tuple[Tensor, ...]
) -> ChainRightHandSide:
    """Differentiate `chain_residual` along tangents of system and right-hand side.

    At a fixed solution, which is zero where the solve failed, and so is this.
    """
    ok, x = solution.ok, with_given_state(solution.states)
    u, nu = solution.actions, solution.costates
    before, end = x[:, :-1], x[:, -1]
    d, right = ChainSystem(*tangents[:8]), ChainRightHandSide(*tangents[8:])
    by_state, by_action = system.stage_state_jacobian, system.stage_action_jacobian
    stage = times(before, by_state.mT) + times(u, by_action.mT)
    d_stage = times(before, d.stage_state_jacobian.mT)
    d_stage = d_stage + times(u, d.stage_action_jacobian.mT)
    last = system.terminal_jacobian
    d_end = times(times(end, d.terminal_jacobian.mT), last)
    d_end = d_end + times(times(end, last.mT), d.terminal_jacobian)
    pull = times(nu, d.state_jacobian) - times(stage, d.stage_state_jacobian)
    pull = pull - times(d_stage, by_state)
    push = times(nu, d.action_jacobian) - times(stage, d.stage_action_jacobian)
    push = push - times(d_stage, by_action)
    damping, weight = d.damping[:, None, None], system.transition_weight[..., None]
    predicted = times(before, d.state_jacobian.mT) + times(u, d.action_jacobian.mT)
    # divided twice, since w * w overflows float32 long before w does
    stretch = (nu / weight) * (d.transition_weight[..., None] / weight)
    inflow = torch.cat((pull[:, 1:], -d_end[:, None]), 1)
    return ChainRightHandSide(
        defect=zero_unless(ok, right.defect - predicted + stretch),
        states=zero_unless(ok, right.states + inflow - damping * x[:, 1:]),
        actions=zero_unless(
            ok, right.actions + push - (d.action_curvature + damping) * u
        ),
    )


def _system_gradients(
    system: ChainSystem,
    primal: ChainSolution,
    adjoint: ChainSolution,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Outer products of primal and adjoint solution, one per matrix of the system.

    Both solutions are zero where the solve failed, and so is each product with a
    possibly non-finite matrix: a failed element's gradient is zero, not NaN.
    """
    ok = primal.ok & adjoint.ok
    x, lx = with_given_state(primal.states), with_given_state(adjoint.states)
    u, lu = primal.actions, adjoint.actions
    nu, mu = primal.costates, adjoint.costates
    weight = torch.where(ok[:, None], system.transition_weight, 1.0)[..., None]
    stage, stage_adjoint = (
        zero_unless(
            ok,
            times(states[:, :-1], system.stage_state_jacobian.mT)
            + times(actions, system.stage_action_jacobian.mT),
        )
        for states, actions in ((x, u), (lx, lu))
    )
    end, end_adjoint = (
        zero_unless(ok, times(states[:, -1], system.terminal_jacobian.mT))
        for states in (x, lx)
    )
    makers: tuple[Callable[[], Tensor], ...] = (
        lambda: two_outer(nu, lx[:, :-1], mu, x[:, :-1]),
        lambda: two_outer(nu, lu, mu, u),
        # divided twice, since w * w overflows float32 long before w does
        lambda: -((nu / weight) * (mu / weight)).sum(-1),
        lambda: -two_outer(stage, lx[:, :-1], stage_adjoint, x[:, :-1]),
        lambda: -two_outer(stage, lu, stage_adjoint, u),
        lambda: -two_outer(end, lx[:, -1], end_adjoint, x[:, -1]),
        lambda: -u * lu,
        lambda: -(x * lx).sum((-1, -2)) - (u * lu).sum((-1, -2)),
    )
    return tuple(
        make() if wanted else None for make, wanted in zip(makers, needed, strict=True)
    )


def zero_unless(ok: Tensor, value: Tensor) -> Tensor:
    """`value` `[B, …]` where `ok` `[B]` holds, else exact zeros (never NaN)."""
    return torch.where(ok.view(-1, *(1 for _ in value.shape[1:])), value, 0.0)


def with_given_state(states: Tensor) -> Tensor:
    """Put the zero increment of the given state before `[B, T, S]`."""
    return torch.cat((torch.zeros_like(states[:, :1]), states), 1)


def times(rows: Tensor, matrices: Tensor) -> Tensor:
    """`row @ matrix` for each of `[…, n]` and `[…, n, m]`.

    Batched products with columns are ten times slower than with rows on a CPU.
    """
    return (rows.unsqueeze(-2) @ matrices).squeeze(-2)


def _finite(value: Tensor) -> Tensor:
    return torch.isfinite(value).flatten(1).all(1)


def flatten_batch(tensor: Tensor, lead: int) -> Tensor:
    """Join the first `lead` dimensions; unlike -1 it allows for empty tensors."""
    return tensor.reshape(math.prod(tensor.shape[:lead]), *tensor.shape[lead:])


def two_outer(left: Tensor, right: Tensor, other: Tensor, to: Tensor) -> Tensor:
    """`left right' + other to'`, in one pass over the result."""
    return torch.stack((left, other), -1) @ torch.stack((right, to), -2)


def _unpack(
    tensors: tuple[Tensor, ...],
) -> tuple[ChainSystem, ChainRightHandSide, Tensor, tuple[Tensor, ...]]:
    return (
        ChainSystem(*tensors[:8]),
        ChainRightHandSide(*tensors[8:11]),
        tensors[11],
        tensors[12:],
    )
