"""A gated recurrent unit with an analytic Jacobian, for any leading dimensions.

`torch.nn.GRUCell` accepts only one or two dimensions and has no Jacobian. The
formula, the weight layout and the parameter names here are its own, so that weights
can be copied from one to the other.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class _Gates(NamedTuple):
    """Values of one update, each `[…, N]`."""

    reset: Tensor
    update: Tensor
    candidate: Tensor
    recurrent: Tensor  # what the reset gate multiplies


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, reset after product).

    With r, z, n for reset gate, update gate and candidate:

        r = σ(W_ir x + b_ir + W_hr h + b_hr)
        z = σ(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn))
        h' = (1 - z) ∘ n + z ∘ h

    Args:
        input_size: Size I of the input.
        hidden_size: Size N of the memory.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Torch's initialisation: uniform in ±1/√N."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self, value: Float[Tensor, "*batch I"], hidden: Float[Tensor, "*batch N"]
    ) -> Float[Tensor, "*batch N"]:
        """Next memory `[…, N]` from an input `[…, I]` and the memory `[…, N]`."""
        gates = self._gates(value, hidden)
        # Under autocast the gates are in lower precision than the memory.
        hidden = hidden.to(gates.candidate.dtype)
        return torch.lerp(gates.candidate, hidden, gates.update)

    def linearize(
        self, value: Float[Tensor, "*batch I"], hidden: Float[Tensor, "*batch N"]
    ) -> tuple[
        Float[Tensor, "*batch N"],
        Float[Tensor, "*batch N I"],
        Float[Tensor, "*batch N N"],
    ]:
        """Next memory and its Jacobians with respect to input and old memory.

        Each Jacobian is a sum of the gates' weight matrices with scaled rows, plus
        diag(z) for the memory that passes through.
        """
        gates = self._gates(value, hidden)
        to_candidate = (1 - gates.update) * (1 - gates.candidate.square())
        to_reset = to_candidate * gates.recurrent * gates.reset * (1 - gates.reset)
        to_update = (hidden - gates.candidate) * gates.update * (1 - gates.update)
        by_input = _scaled_rows(self.weight_ih, to_reset, to_update, to_candidate)
        by_hidden = _scaled_rows(
            self.weight_hh, to_reset, to_update, to_candidate * gates.reset
        )
        by_hidden.diagonal(dim1=-2, dim2=-1).add_(gates.update)
        after = torch.lerp(gates.candidate, hidden, gates.update)
        return after, by_input, by_hidden

    def _gates(self, value: Tensor, hidden: Tensor) -> _Gates:
        inputs = F.linear(value, self.weight_ih, self.bias_ih).chunk(3, dim=-1)
        memory = F.linear(hidden, self.weight_hh, self.bias_hh).chunk(3, dim=-1)
        reset = torch.sigmoid(inputs[0] + memory[0])
        update = torch.sigmoid(inputs[1] + memory[1])
        candidate = torch.tanh(torch.addcmul(inputs[2], reset, memory[2]))
        return _Gates(reset, update, candidate, memory[2])


def _scaled_rows(
    weight: Tensor, reset: Tensor, update: Tensor, candidate: Tensor
) -> Tensor:
    """diag(reset) W_r + diag(update) W_z + diag(candidate) W_n, `[…, N, columns]`."""
    # One batched product over N: one buffer is written, where three products and two
    # sums would write five (as fast forward, up to twice as fast backward).
    scales = torch.stack([reset, update, candidate], dim=-1)
    gates = weight.unflatten(0, (3, -1))
    return torch.einsum("...ng,gni->...ni", scales, gates)
