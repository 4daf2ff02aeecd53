"""Random numbers that are a function of a key: the same in every batch.

A stream of random numbers is named by a key, an int64 number, and its i-th number
depends on the key and on i alone::

    key     ← fold(fold(seed, problem), plan)          one per problem
    bits    ← mix(key + (i + 1) · γ)                   64 at a time, 4 × 16
    normals ← ½ H (table[a], table[b], table[c], table[d])

where the table holds the 65,536 normal quantiles of what 16 bits can be, and H adds
and subtracts. The half of H is a rotation, under which independent normal numbers stay
independent and normal; each result has 64 bits behind it.

A `torch.Generator` would be one long stream instead, of which a problem gets what its
place in the batch says; one generator for each problem would need the keys on the
host. Here there is neither state nor a look at a number, so that the functions
vectorise (`torch.func.vmap`), compile into one graph and export.

Every operation is on integers, looks into the table or is a sum that float32 holds
exactly: a key's numbers are the same on every processor and device, to the last bit.
PyTorch's logarithm and sine are not: they may differ between the vectorised part and
the rest of an array, so that a number would depend on its place after all.

References:
    Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"
    (SplitMix64); Wallace 1996, "Fast pseudorandom generators for normal and exponential
    variates", for rotations of normal numbers; Salmon et al. 2011, "Parallel random
    numbers: as easy as 1, 2, 3", for counters in place of a state.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from diffplan._checks import is_traced

CountT = TypeVar("CountT", Tensor, int, Tensor | int)

_GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""γ of SplitMix64, the golden ratio as an odd number, in two's complement."""

_FOLD_GAMMA = 0xD1342543DE82EF95 - 2**64
"""The same for `fold`, so that what is folded in is no counter of a stream."""

_MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))

CACHED = 2**14
"""Counters that are worked on at once on a CPU, whose second-level cache they fill."""

LARGEST = 2**22
"""The same elsewhere, which bounds the memory that is needed meanwhile."""


def _half_quantiles() -> Tensor:
    """Return half the normal quantiles of the middles of 2^16 bins, variance ¼.

    Multiples of 2^-21, so that four of them have an exact sum. The fourth moment of
    such sums is 2.9998.
    """
    middle = (torch.arange(2**16, dtype=torch.float64, device="cpu") + 0.5) / 2**16
    quantile = torch.special.ndtri(middle)
    quantile /= quantile.square().mean().sqrt()
    return (quantile * 2**20).round().float() / 2**21


_TABLES = {torch.device("cpu"): _half_quantiles()}
"""The half quantiles on each device that has drawn."""


def stream_keys(
    lead: tuple[int, ...],
    device: torch.device,
    *,
    seed: Tensor | int | torch.Generator = 0,
    keys: Tensor | None = None,
    count: Tensor | int = 0,
) -> Tensor:
    """Return the key of each problem's noise, for the plan that is made now.

    Args:
        lead: The leading dimensions of a batch of problems.
        device: Where the keys are wanted.
        seed: Shared by the batch, a whole number or int64 `[]`; or a generator, which
            gives one and so advances.
        keys: Of the problems, int64 `[*lead]`; None stands for the index in the
            flattened batch.
        count: How many plans were made before this one, a whole number or int64
            `[*lead]`.

    Returns:
        int64 `[*lead]`.

    Example:
        >>> batch = stream_keys((3,), torch.device("cpu"))
        >>> last = stream_keys((), torch.device("cpu"), keys=torch.tensor(2))
        >>> bool(batch[2] == last)
        True
    """
    if keys is None:
        keys = torch.arange(math.prod(lead), device=device).reshape(lead)
    keys = keys.to(device)
    if isinstance(seed, torch.Generator):
        seed = drawn_seed(seed, device)
    if not isinstance(seed, Tensor):
        seed = torch.full_like(keys, wrapped(seed))
    return fold(fold(seed, keys), count)


def drawn_seed(generator: torch.Generator, device: torch.device) -> Tensor:
    """Return the seed of one call, int64 `[]`, also in `torch.func.vmap`."""
    with torch._C._DisableFuncTorch():
        seed = torch.randint(
            2**63 - 1, (), generator=generator, device=generator.device
        )
        return seed.to(device, non_blocking=True)


def fold(
    keys: Int64[Tensor, "*#batch"], data: Int64[Tensor, "*#batch"] | int
) -> Tensor:
    """Return new keys, one for each pair of a key and a number.

    Streams of different numbers, or of different keys, are independent. The order
    counts: `fold(fold(k, 1), 2)` is not `fold(fold(k, 2), 1)`.

    Args:
        keys: int64, any shape.
        data: A whole number, or an int64 tensor that broadcasts with `keys`.

    Returns:
        int64, the shape that both broadcast to.

    Example:
        >>> fold(torch.zeros((), dtype=torch.int64), torch.arange(3)).shape
        torch.Size([3])
    """
    if torch.compiler.is_compiling():
        if not isinstance(data, Tensor):  # filled on the device: no copy to wait for
            data = torch.full_like(keys, wrapped(data))
        return _fold_as_one(keys, data)
    return _folded(keys, data)


def _folded(keys: Tensor, data: Tensor | int) -> Tensor:
    number = _times(
        data if isinstance(data, Tensor) else operator.index(data), _FOLD_GAMMA
    )
    mixed = _mix(number) if isinstance(number, Tensor) else _mixed(number)
    return _mix(keys + mixed)


def wrapped(number: int) -> int:
    """Return what is left of a whole number modulo 2^64, in the range of int64.

    Example:
        >>> wrapped(2**64 + 3)
        3
    """
    # Whole numbers of numpy would overflow.
    return (operator.index(number) + 2**63) % 2**64 - 2**63


def standard_normal(
    keys: Int64[Tensor, "..."], shape: tuple[int, ...], like: Float[Tensor, "..."]
) -> Tensor:
    """Draw N(0, 1) numbers, for each key its own.

    What a key's stream begins with depends on the key and the number of entries of
    `shape`, never on the other keys. The numbers are those of float32 in every dtype,
    so that plans in float32 and float64 see the same: multiples of 2^-21 within ±8.7.

    Args:
        keys: int64 `[…]`.
        shape: What to draw for each key.
        like: Gives the dtype.

    Returns:
        `[…, *shape]`, on the device of `keys`, without a graph.

    Example:
        >>> keys = torch.arange(5)
        >>> drawn = standard_normal(keys, (3, 2), torch.zeros(()))
        >>> (
        ...     drawn.shape,
        ...     torch.equal(drawn[4:], standard_normal(keys[4:], (3, 2), drawn)),
        ... )
        (torch.Size([5, 3, 2]), True)
    """
    size = math.prod(shape)
    draw = _draw_normals_as_one if torch.compiler.is_compiling() else _draw_normals
    return draw(keys, size, like.dtype).reshape((*keys.shape, *shape))


def _draw_normals(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    quarter = -(-size // 4)  # numbers; a counter's bits give four of them
    rows = keys.reshape(-1, 1)
    if is_traced(keys):
        needed = -(-quarter // 4)
        counters = _counters(0, needed, needed, rows.device)
        parts = [
            torch.add(left, right, alpha=sign)[:, :quarter]
            for left, right, sign in _rotated(rows, counters)
        ]
        values = torch.cat(parts, dim=1)[:, :size].to(dtype)
    else:
        values = _in_chunks(rows, size, quarter, dtype)
    return values.reshape((*keys.shape, size))


def uniform(
    keys: Int64[Tensor, "..."], shape: tuple[int, ...], like: Float[Tensor, "..."]
) -> Tensor:
    """Draw numbers that are uniform in [0, 1), for each key its own.

    Multiples of 2^-24, the same in float32 and float64. For the rest as
    `standard_normal`.

    Returns:
        `[…, *shape]`, on the device of `keys`, without a graph.

    Example:
        >>> uniform(torch.arange(5), (3,), torch.zeros(())).shape
        torch.Size([5, 3])
    """
    size = math.prod(shape)
    draw = _draw_shares_as_one if torch.compiler.is_compiling() else _draw_shares
    return draw(keys, size, like.dtype).reshape((*keys.shape, *shape))


def _draw_shares(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    bits = _bits(keys.reshape(-1, 1), 0, size)
    share = _shifted(bits, 40).to(dtype) * 2.0**-24
    return share.reshape((*keys.shape, size))


def _in_chunks(rows: Tensor, size: int, quarter: int, dtype: torch.dtype) -> Tensor:
    values = torch.empty(rows.shape[0], size, dtype=dtype, device=rows.device)
    needed = -(-quarter // 4)
    chunk = max(1, (CACHED if rows.device.type == "cpu" else LARGEST) // 4)
    step = max(1, chunk // max(needed, 1))
    for first in range(0, needed, chunk):
        count = min(chunk, needed - first)
        counters = _counters(first, count, needed, rows.device)
        for row in range(0, rows.shape[0], step):
            parts = _rotated(rows[row : row + step], counters)
            for place, (left, right, sign) in enumerate(parts):
                begin = place * quarter + 4 * first
                wanted = min(4 * count, quarter - 4 * first, size - begin)
                if wanted > 0:
                    out = values[row : row + step, begin : begin + wanted]
                    left, right = left[:, :wanted], right[:, :wanted]
                    torch.add(left, right, alpha=sign, out=out)
    return values


def _counters(first: int, count: int, needed: int, device: torch.device) -> Tensor:
    """Return what `_mix` adds to keys for each quarter of a row, int64 `[4, 1, count]`.

    Args:
        first: The first counter in the quarter.
        count: How many counters.
        needed: Counters in a whole quarter; those of the next one follow.
        device: Where they are wanted.
    """
    counter = torch.arange(first, first + count, device=device)
    quarters = torch.arange(0, 4 * needed, max(needed, 1), device=device)
    return _times(counter + quarters[:, None, None], _GAMMA)


def _rotated(rows: Tensor, counters: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Return 4 · count numbers of each quarter of the rows, each as a sum to be made.

    Args:
        rows: Keys `[R, 1]`.
        counters: As `_counters` gives them.

    Returns:
        For each quarter two tensors `[R, 4 · count]` and the sign of the second: the
        caller adds them, into the sum's place.
    """
    bits = _mix(rows + counters)
    index = bits.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    halves = _table(rows.device).index_select(0, index.reshape(-1))
    a, b, c, d = halves.reshape(index.shape).unbind(0)
    sums, differences = (a + b, c + d), (a - b, c - d)
    return [(*pair, sign) for pair in (sums, differences) for sign in (1, -1)]


def _table(device: torch.device) -> Tensor:
    if device not in _TABLES:
        with torch._C._DisableFuncTorch():
            table = _TABLES[torch.device("cpu")].to(device)
        if type(table) is not Tensor:  # as in a trace with tensors that hold nothing
            return table
        _TABLES[device] = table
    return _TABLES[device]


def _bits(rows: Tensor, first: int, count: int) -> Tensor:
    """Return 64 bits for each counter from `first` on, int64 `[R, count]`."""
    counter = torch.arange(first, first + count, device=rows.device)
    return _mix(rows + _times(counter, _GAMMA))


def _times(counter: CountT, gamma: int) -> CountT:
    """Return (counter + 1) · γ modulo 2^64.

    Written with the complement, -counter - 1: torch's Inductor takes whatever is linear
    in `arange` for an index into memory, and stops where that passes 2^63.
    """
    return ~counter * -gamma


def _mix(value: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 numbers: each bit changes half of them."""
    for shift, factor in _MIXERS:
        value = _shifted(value, shift).bitwise_xor_(value).mul_(factor)
    return _shifted(value, 31).bitwise_xor_(value)


def _mixed(number: int) -> int:
    """Return what `_mix` makes of one number, which costs no operations on tensors."""
    number %= 2**64
    for shift, factor in _MIXERS:
        number = (number ^ number >> shift) * factor % 2**64
    return wrapped(number ^ number >> 31)


def _shifted(value: Tensor, shift: int) -> Tensor:
    """Return int64 numbers shifted right, zeros following (`>>` copies the sign)."""
    return (value >> shift).bitwise_and_((1 << (64 - shift)) - 1)


# For a compiler each of the three is one operation, which it calls and does not look
# into. Inductor writes the products modulo 2^64 as products of signed numbers in C++,
# whose overflow is undefined there: gcc, which knew a counter's range, took them for
# something else, and iterations got other noise without a word. Called as they are,
# compiled planners also draw the same numbers to the bit.


def _as_one(
    name: str, function: Callable[..., Tensor], schema: str
) -> Callable[..., Tensor]:
    operation = torch.library.custom_op(
        f"diffplan::{name}", function, mutates_args=(), schema=schema
    )

    def mapped(
        info: Any, in_dims: tuple[int | None, ...], *given: Any
    ) -> tuple[Tensor, int]:
        # Every argument is for itself in each dimension: a mapped one comes first.
        rank = max(
            value.dim() - (place is not None)
            for value, place in zip(given, in_dims, strict=True)
            if isinstance(value, Tensor)
        )

        def first(value: Any, place: int | None) -> Any:
            if place is None:
                return value
            moved = value.movedim(place, 0)
            ones = (1,) * (rank + 1 - moved.dim())
            return moved.reshape(info.batch_size, *ones, *moved.shape[1:])

        return operation(*map(first, given, in_dims)), 0

    torch.library.register_vmap(operation, mapped)
    return operation


def _shape_of_fold(keys: Tensor, data: Tensor) -> Tensor:
    return torch.empty_like(keys + data)


def _shape_of_draw(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    return keys.new_empty((*keys.shape, size), dtype=dtype)


_DRAW = "(Tensor keys, SymInt size, ScalarType dtype) -> Tensor"
_fold_as_one = _as_one("fold", _folded, "(Tensor keys, Tensor data) -> Tensor")
_draw_normals_as_one = _as_one("normals", _draw_normals, _DRAW)
_draw_shares_as_one = _as_one("shares", _draw_shares, _DRAW)
torch.library.register_fake("diffplan::fold", _shape_of_fold)
torch.library.register_fake("diffplan::normals", _shape_of_draw)
torch.library.register_fake("diffplan::shares", _shape_of_draw)
