"""The linear-quadratic regulator as a layer: exact, batched, differentiable.

Over states x_0 … x_T and actions u_0 … u_{T-1}::

    minimise    Σ_{t<T} ½ x_t'Q_t x_t + u_t'N_t x_t + ½ u_t'R_t u_t + q_t'x_t + r_t'u_t
                + ½ x_T'Q_T x_T + q_T'x_T
    subject to  x_{t+1} = A_t x_t + B_t u_t + c_t,   x_0 given.

With a costate λ_t for each transition, and λ_0 for the given state, the conditions of
optimality are one symmetric system in (x, u, λ)::

    Q_t x_t + N_t'u_t + q_t + A_t'λ_{t+1} = λ_t        (λ_T = Q_T x_T + q_T)
    N_t x_t + R_t u_t + r_t + B_t'λ_{t+1} = 0
    A_t x_t + B_t u_t + c_t = x_{t+1}

Riccati's recursion factors it, two sweeps of vectors solve it, O(T (S + A)³) and
O(T (S + A)²). Because the system is symmetric, its derivative is a second solve with
the same factor, and outer products of the two solutions: no recursion is ever
differentiated, the derivative can be repeated to any order, and an element that could
not be factored keeps its trouble to itself.

Only what needs the cost-to-go runs inside the loop over time; everything else is done
for all steps at once, since these matrices are so small that the number of operations
is what counts.

Symbols: P, p cost-to-go ½ x'P x + p'x; L Cholesky factor of Q_uu = R + B'P B;
Q_ux = N + B'P A; gain K = -Q_uu⁻¹Q_ux; F = A + B K the closed loop.

References:
    Anderson and Moore, *Optimal Control: Linear Quadratic Methods*, chapter 2; the
    adjoint as a second regulator: Amos et al. 2018, "Differentiable MPC for end-to-end
    planning and control" (arXiv:1810.13400), section 4.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffplan._shapes import Precise, Shape, fitted
from diffplan.functional._chain import flatten_batch, zero_unless
from diffplan.functional._lqr_kkt import (
    Factor,
    Matrices,
    Vectors,
    factorize,
    solve,
    symmetric,
)


class LQRProblem(NamedTuple):
    """A time-varying linear-quadratic problem (see the module's formula).

    Leading dimensions are any and broadcast: one set of matrices may serve a batch of
    initial states. Of the square costs only the symmetric part counts.

    Attributes:
        state_cost: Q_0 … Q_T, `[…, T+1, S, S]`.
        action_cost: R_t, `[…, T, A, A]`.
        cross_cost: N_t, `[…, T, A, S]`.
        state_linear: q_0 … q_T, `[…, T+1, S]`.
        action_linear: r_t, `[…, T, A]`.
        state_jacobian: A_t, `[…, T, S, S]`.
        action_jacobian: B_t, `[…, T, S, A]`.
        offset: c_t, `[…, T, S]`.
        initial_state: x_0, `[…, S]`.
    """

    state_cost: Precise[Tensor, "*#batch T+1 S S"]
    action_cost: Precise[Tensor, "*#batch T A A"]
    cross_cost: Precise[Tensor, "*#batch T A S"]
    state_linear: Precise[Tensor, "*#batch T+1 S"]
    action_linear: Precise[Tensor, "*#batch T A"]
    state_jacobian: Precise[Tensor, "*#batch T S S"]
    action_jacobian: Precise[Tensor, "*#batch some=T some=S some=A"]
    offset: Precise[Tensor, "*#batch T S"]
    initial_state: Precise[Tensor, "*#batch S"]


_DIMENSIONS = [len(Shape.of(t).sizes) for t in LQRProblem.__annotations__.values()]
"""Those of the tensors of a problem, without the leading ones."""


class LQRSolution(NamedTuple):
    """The optimal trajectory, and the feedback law about it.

    Attributes:
        states: x_0 … x_T, `[…, T+1, S]`.
        actions: u_0 … u_{T-1}, `[…, T, A]`.
        costates: λ_1 … λ_T, the derivative of the optimal cost with respect to the
            offsets c_0 … c_{T-1}, `[…, T, S]`.
        gains: K_t of the optimal law u = u_t + K_t (x - x_t), `[…, T, A, S]`; without
            a gradient.
        ok: Whether the problem has a unique minimum (every Q_uu positive definite) and
            its solution is finite, `[…]` bool. Where it is False everything else is
            zero.
    """

    states: Tensor
    actions: Tensor
    costates: Tensor
    gains: Tensor
    ok: Tensor


@dataclass(frozen=True)
class LQRFactor:
    """A factored problem: solves for any linear terms, offsets and initial states.

    Made by `lqr_factorize`.

    Attributes:
        matrices: Of the flattened problem, with their history.
        factor: The factorisation of the same problem, without history.
        flat_ok: Status per element of the flattened batch, `[B]` bool.
        batch_shape: The caller's leading dimensions.
    """

    matrices: Matrices
    factor: Factor
    flat_ok: Tensor
    batch_shape: torch.Size

    @property
    def ok(self) -> Tensor:
        """Return whether every Q_uu is positive definite, `[…]` bool."""
        return self.flat_ok.view(self.batch_shape)

    def solve(
        self,
        state_linear: Tensor,
        action_linear: Tensor,
        offset: Tensor,
        initial_state: Tensor,
    ) -> LQRSolution:
        """Solve with other vectors, differentiably in them and in the matrices.

        Args:
            state_linear: `[…, T+1, S]`, with the leading dimensions of the factor.
            action_linear: `[…, T, A]`.
            offset: `[…, T, S]`.
            initial_state: `[…, S]`.
        """
        like, batch = self.matrices.action_jacobian, self.batch_shape
        _, steps, size, width = like.shape
        vectors = Vectors(
            fitted("state_linear", state_linear, (*batch, steps + 1, size), like),
            fitted("action_linear", action_linear, (*batch, steps, width), like),
            fitted("offset", offset, (*batch, steps, size), like),
            fitted("initial_state", initial_state, (*batch, size), like),
        )
        vectors = Vectors(*(flatten_batch(vector, len(batch)) for vector in vectors))
        found = solve(self.matrices, self.factor, self.flat_ok, vectors)
        values = (
            found.states,
            found.actions,
            found.costates[:, 1:],
            zero_unless(self.flat_ok, self.factor.gain),
            found.ok,
        )
        return LQRSolution(
            *(value.view((*self.batch_shape, *value.shape[1:])) for value in values)
        )


def lqr(problem: LQRProblem) -> LQRSolution:
    """Solve a linear-quadratic problem, differentiably to any order in every tensor.

    Never raises for numerical reasons and never looks at a number from the host: an
    element without a unique minimum is reported in `.ok`, is zero, and has zero
    gradients.

    Args:
        problem: Any leading dimensions.

    Raises:
        ShapeError: two tensors disagree about T, S or A.

    Example:
        >>> one = torch.ones(1, 1, 1)
        >>> solution = lqr(
        ...     LQRProblem(
        ...         state_cost=torch.ones(2, 1, 1),
        ...         action_cost=one,
        ...         cross_cost=0 * one,
        ...         state_linear=torch.zeros(2, 1),
        ...         action_linear=torch.zeros(1, 1),
        ...         state_jacobian=one,
        ...         action_jacobian=one,
        ...         offset=torch.zeros(1, 1),
        ...         initial_state=torch.ones(1),
        ...     )
        ... )
        >>> solution.actions
        tensor([[-0.5000]])
    """
    problem = _broadcast(problem)
    return _factor_of(problem).solve(
        problem.state_linear,
        problem.action_linear,
        problem.offset,
        problem.initial_state,
    )


def lqr_factorize(problem: LQRProblem) -> LQRFactor:
    """Factor the matrices of a problem, to solve with several right-hand sides.

    Args:
        problem: Any leading dimensions; of its vectors only the shapes count.

    Raises:
        ShapeError: two tensors disagree about T, S or A.
    """
    return _factor_of(_broadcast(problem))


def _factor_of(problem: LQRProblem) -> LQRFactor:
    batch = problem.initial_state.shape[:-1]
    chosen = (
        symmetric(problem.state_cost),
        symmetric(problem.action_cost),
        problem.cross_cost,
        problem.state_jacobian,
        problem.action_jacobian,
    )
    matrices = Matrices(*(flatten_batch(matrix, len(batch)) for matrix in chosen))
    with torch.no_grad():
        factor, ok = factorize(Matrices(*(matrix.detach() for matrix in matrices)))
    return LQRFactor(matrices, factor, ok, batch)


def _broadcast(problem: LQRProblem) -> LQRProblem:
    """Expand all tensors to one batch."""
    leads = [
        tensor.shape[: tensor.dim() - own]
        for tensor, own in zip(problem, _DIMENSIONS, strict=True)
    ]
    batch = torch.broadcast_shapes(*leads)
    return LQRProblem(
        *(
            tensor.expand(*batch, *tensor.shape[len(lead) :])
            for tensor, lead in zip(problem, leads, strict=True)
        )
    )
