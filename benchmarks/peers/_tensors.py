"""What the workers of `control_loop.py` share whose library takes tensors."""

from collections.abc import Callable

import torch
from _loop import Numbers
from torch import Tensor

FLOAT = torch.float64


def of_numbers(
    model: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[Numbers, Numbers], Numbers]:
    """Return a model of tensors as one of numbers, which `Controller` asks for."""

    def expected(state: Numbers, action: Numbers) -> Numbers:
        given = (torch.tensor(value, dtype=FLOAT) for value in (state, action))
        return model(*given).tolist()

    return expected
