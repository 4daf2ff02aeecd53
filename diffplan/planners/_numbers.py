"""Numbers of planners that may be learned, and whether they are still in their range.

An optimiser knows nothing of a range. Numbers are checked when they are given, and
again with every plan: on the CPU by an error that names them; where nobody may wait for
them (on a GPU, in `torch.compile`, in `torch.func`), by `plan.status`, NON_FINITE.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffplan._checks import require_tensor
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional._safe_math import nan_unless_positive, require_learned


def set_number(
    module: nn.Module,
    name: str,
    value: float | Tensor | None,
    *,
    zero: bool = False,
    per_action: bool = False,
) -> None:
    """Set a positive number that may be learnable as `module.name`.

    An `nn.Parameter` becomes a parameter of the module and another tensor a buffer, so
    that both move and save with it.

    Args:
        module: Whose number it is.
        name: Its name.
        value: The number; None stands for a default that is found later.
        zero: Whether it may be zero.
        per_action: Whether it may be a vector, with a number for each action dimension.

    Raises:
        ArgumentError: a number is not positive (or NaN).
        TensorTypeError: a tensor holds no floating-point numbers.
        ShapeError: it holds several, or has more than one dimension.
    """
    if isinstance(value, Tensor):
        require_tensor(name, value)
        if value.ndim > 1 or (value.numel() != 1 and not per_action):
            expected = "one number or [A]" if per_action else "one number, [] or [1]"
            raise ShapeError(f"{name}: expected {expected}, got {list(value.shape)}")
    if value is not None:
        given = value if isinstance(value, Tensor) else torch.tensor(float(value))
        if not bool(((given > 0) | ((given == 0) & zero)).all()):
            least = "at least 0" if zero else "above 0"
            raise ArgumentError(f"{name}: expected {least}, got {value}")
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)
    if isinstance(value, Tensor):
        module.__dict__.setdefault("ranges_of_numbers", {})[name] = zero


def check_numbers(module: nn.Module) -> None:
    """Raise for a learned number that has left its range, if it may be looked at.

    Args:
        module: With the numbers of all modules that it holds.

    Raises:
        ArgumentError: names the number.
    """
    for owner, name, zero in _ranges(module):
        require_learned(name, getattr(owner, name), zero=zero)


def numbers_in_range(module: nn.Module) -> Tensor | bool:
    """Return whether all learned numbers are in range, a bool `[]`; True without any.

    Nothing is looked at.

    Args:
        module: With the numbers of all modules that it holds.
    """
    numbers = [
        nan_unless_positive(getattr(owner, name).detach(), zero=zero).isnan().any()
        for owner, name, zero in _ranges(module)
    ]
    return ~torch.stack(numbers).any() if numbers else True


def _ranges(module: nn.Module) -> Iterator[tuple[nn.Module, str, bool]]:
    for owner in module.modules():
        for name, zero in owner.__dict__.get("ranges_of_numbers", {}).items():
            yield owner, name, zero
