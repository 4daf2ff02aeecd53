"""A factored chain system, whatever factored it; see `diffplan.functional._chain`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffplan.functional._chain import (
    ChainRightHandSide,
    ChainSolution,
    ChainSystem,
    RawSolve,
    solve_chain,
)


@dataclass(frozen=True)
class ChainFactor:
    """A factored chain system, which solves for any right-hand side.

    Attributes:
        raw_solve: How this kind of factor solves.
        system: The flattened system in the factor's precision, with its history.
        tensors: Those of the factorisation, without history.
        flat_ok: Status per element of the flattened batch, `[B]` bool.
        batch_shape: The caller's leading dimensions.
    """

    raw_solve: RawSolve
    system: ChainSystem
    tensors: tuple[Tensor, ...]
    flat_ok: Tensor
    batch_shape: torch.Size

    @property
    def ok(self) -> Tensor:
        """Return whether the system is positive definite (and finite), `[…]` bool."""
        return self.flat_ok.view(self.batch_shape)

    def solve(
        self, states: Tensor, actions: Tensor, defect: Tensor | None = None
    ) -> ChainSolution:
        """Solve (J'WJ + H) (x, u) = (states, actions) - J'W defect.

        The solution is differentiable to any order in every tensor of the system and
        of the right-hand side, at the price of one more solve per derivative. The
        defect has an argument of its own: folded into the other two as J'W c it would
        lose, at large weights, all digits that the Riccati form keeps.

        Args:
            states: Right-hand side of x_1..x_T, `[…, T, S]`.
            actions: Right-hand side of u_0..u_{T-1}, `[…, T, A]`.
            defect: c, `[…, T, S]`; None stands for zero.
        """
        defect = torch.zeros_like(states) if defect is None else defect
        rhs = ChainRightHandSide(defect, states, actions)
        flat = rhs.flattened(self.system, self.batch_shape)
        solution = solve_chain(
            self.raw_solve, self.system, self.tensors, self.flat_ok, flat
        )
        return solution.unflattened(self.batch_shape, states.dtype)
