"""The limited multi-label projection: a differentiable choice of the k best.

`lml` projects scores x onto {y : 0 ≤ y ≤ 1, Σ y = k}, with binary entropy as the
distance. The solution is y_i = σ((x_i + ν) / τ), where one number ν per row makes the
sum right. `docs/mathematics/lml.md` derives what follows.

**Forward.** With z = x / τ and s = ν / τ, let the k largest entries be *chosen* and

    P(s) = Σ over the chosen (1 - y_i),   Q(s) = Σ over the others y_i,

so that Σ y - k = Q - P. The equation is solved in the form F(s) = log Q - log P = 0,
because 1 ≤ F' ≤ 2 for every input: a Newton step never diverges, the size of F bounds
the error, and F is exactly linear both for ties and for scores that are far apart. No
bracket is searched, no scale matters, and a fixed number of steps is enough.

**Backward.** With h = y (1 - y) the Jacobian is (diag(h) - h hᵀ / Σh) / τ, symmetric;
it is written in terms of y, so that it can be differentiated again.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffplan._checks import require_count, require_positive
from diffplan._kinds import OrInfinite
from diffplan.errors import ArgumentError, ShapeError
from diffplan.functional._derivatives import apply, is_followed, keep, or_zero
from diffplan.functional._safe_math import nan_unless_positive

_NEWTON_STEPS = {torch.float32: 4, torch.float64: 5}
_MANY = 1024
"""Newton steps that reach rounding error from the worst start known for rows of up to
`_MANY` entries; longer rows, whose start may be farther off, take one more. For how
they were found see `docs/mathematics/lml.md`."""

_FAR = {torch.float32: 40.0, torch.float64: 80.0}
"""Beyond this distance e^-abs(z) is far below rounding error."""


def lml(
    x: Float[Tensor, "*batch N"], k: int, temperature: OrInfinite | Tensor = 1.0
) -> Tensor:
    """Return weights in [0, 1] that sum to k, high where x is high.

    The weights solve ``argmin_y -xᵀy - τ H(y)`` subject to ``Σ y = k`` and
    ``0 ≤ y ≤ 1``, where H is the binary entropy summed over the entries. As τ falls to
    zero they become one for the k largest entries and zero for the others; where the
    k-th and the next tie, entries that are equal stay equal.

    Differentiable to any order with respect to x and a temperature that is a tensor;
    works under `torch.func` and compiles into one graph. Nothing is synchronised with
    the host. Where all weights are saturated the gradient is zero.

    Args:
        x: Scores `[…, N]` of any scale, float32 or float64; half precisions are
            computed in float32. -inf stands for an entry that is not available: weight
            zero (with fewer than k entries available, those get one each). A NaN, or k
            entries of +inf or more, make their row NaN, as in `torch.softmax`.
        k: How many to choose, 0 … N.
        temperature: τ, divides x: a number above zero, or a tensor of such numbers
            with one for all rows `[]` or one per row `[…, 1]`. An infinite one gives
            all available entries the same weight. A number of a tensor that is not
            above zero makes its row NaN: nobody waits to look at it.

    Returns:
        `[…, N]`, in the dtype of x.

    Raises:
        TensorTypeError: x is no floating-point tensor.
        ShapeError: x has no dimension, or the temperature does not fit its rows.
        ArgumentError: k is not a whole number between 0 and N, or the temperature is
            a number that is not positive.

    References:
        Amos et al. 2019, "The Limited Multi-Label Projection Layer"
        (arXiv:1906.08707); with a temperature: Amos and Yarats 2020, "The
        Differentiable Cross-Entropy Method" (arXiv:1909.12830), equation 4 and
        appendix A.

    Example:
        >>> lml(torch.tensor([3.0, 1.0, 2.0, -1.0]), k=2, temperature=0.5)
        tensor([0.9566, 0.2874, 0.7487, 0.0073])
        >>> lml(torch.tensor([3.0, 1.0, 2.0, -1.0]), k=2, temperature=0.001)
        tensor([1., 0., 1., 0.])
    """
    _check(x, k, temperature)
    scores = x if x.dtype in _NEWTON_STEPS else x.float()
    given: tuple[Tensor, ...] = (scores,)
    if isinstance(temperature, Tensor):
        temperature = nan_unless_positive(temperature)
        temperature = temperature.to(scores).expand(*x.shape[:-1], 1)
        given = (scores, temperature)
    if _needs_node(*given):
        weights: Tensor = apply(_Projection, _ProjectionReverse, scores, k, temperature)
    else:
        weights = _project(scores, k, temperature)
    return weights.to(x.dtype)


def _needs_node(*given: Tensor) -> bool:
    if torch.compiler.is_compiling():
        # what is not seen here, inside torch.func, is differentiated step by step
        return torch.is_grad_enabled() and any(value.requires_grad for value in given)
    return is_followed(*given)


class _ProjectionReverse(torch.autograd.Function):
    """The projection as one node of the graph, with its closed-form derivative.

    dy = (diag(h) - h h' / Σh) d(x/τ), symmetric: both modes push the same way.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, k: int, temperature: float | Tensor) -> Tensor:
        return _project(x, k, temperature)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, temperature = inputs
        if isinstance(temperature, Tensor):
            keep(ctx, output, x, temperature)
        else:
            ctx.temperature = temperature
            keep(ctx, output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        y, *others = ctx.saved_tensors
        pull = _push(y, cotangent)
        if not others:
            return pull / ctx.temperature, None, None
        x, temperature = others
        by_temperature = None
        if ctx.needs_input_grad[2]:
            slope = (pull * _centred(y, x)).sum(-1, keepdim=True)
            # the square of a small temperature would vanish
            by_temperature = -(slope / temperature) / temperature
        return pull / temperature, None, by_temperature


class _Projection(_ProjectionReverse):
    """The same with forward mode."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        y, *others = ctx.saved_tensors
        (by_x,) = or_zero(tangents[:1], (y,))
        if not others:
            return _push(y, by_x) / ctx.temperature
        x, temperature = others
        (by_temperature,) = or_zero(tangents[2:], (temperature,))
        move = by_x - _centred(y, x) * (by_temperature / temperature)
        return _push(y, move) / temperature


def _push(y: Tensor, move: Tensor) -> Tensor:
    """Multiply with diag(h) - h h' / Σh; the answer sums to zero."""
    h = y * (1 - y)
    weighted = h * move
    mean = weighted.sum(-1, keepdim=True) / _total(h)
    return torch.addcmul(weighted, h, mean, value=-1)


def _centred(y: Tensor, x: Tensor) -> Tensor:
    """Scores less a centre, zero where they do not count.

    As `_push` takes any constant off, any centre will do for dy/dτ = -(dy/dx) x / τ;
    this one keeps the digits of scores far from zero.
    """
    h = y * (1 - y)
    seen = torch.where(h > 0, x, 0.0)
    return seen - (h * seen).sum(-1, keepdim=True) / _total(h)


def _total(h: Tensor) -> Tensor:
    total = h.sum(-1, keepdim=True)
    return total.clamp_min(torch.finfo(h.dtype).tiny)  # 0 / 0 if all saturated


def _project(x: Tensor, k: int, temperature: float | Tensor) -> Tensor:
    """Solve the program row by row; see the module's formulas."""
    if k in (0, x.shape[-1]):
        return _all_or_none(x, k, temperature)
    best, order = x.topk(k, dim=-1, sorted=False)
    rest = x.scatter(-1, order, -torch.inf)
    # Scores count from the middle between the k-th and the next. There both sums have
    # the same largest term, so |F(0)| ≤ log max(k, N - k) whatever the scores are; and
    # differences of large scores are taken before the division rounds them.
    middle = 0.5 * best.amin(-1, keepdim=True) + 0.5 * rest.amax(-1, keepdim=True)
    middle = middle.clamp_min(torch.finfo(x.dtype).min)
    # an infinite score stays one at an infinite temperature
    known = torch.isfinite(middle)
    best = torch.where(best.isposinf() & known, best, (best - middle) / temperature)
    rest = torch.where(rest.isneginf(), rest, (rest - middle) / temperature)
    shift = _solve(best, rest, _NEWTON_STEPS[x.dtype] + (x.shape[-1] > _MANY))
    weights = torch.sigmoid_(rest + shift)
    return weights.scatter(-1, order, torch.sigmoid_(best + shift))


def _solve(best: Tensor, rest: Tensor, steps: int) -> Tensor:
    """Return s where the k `best` lack as much of one as the `rest` have of zero.

    Args:
        best: z of the chosen `[…, k]`, at least zero.
        rest: z of the others `[…, N]`, at most zero; -inf for the chosen.
        steps: Newton steps on F.
    """
    # Entries beyond `far` are saturated; kept there, neither sum can vanish.
    far = _FAR[best.dtype]
    best, rest = (-best.abs()).clamp_min(-far), rest.clamp_min(-far)
    shift = torch.zeros_like(best[..., :1])
    for _ in range(steps):
        lacks = torch.sigmoid_(best - shift)  # 1 - y: no digits are lost near 1
        has = torch.sigmoid_(rest + shift)
        p, q = lacks.sum(-1, keepdim=True), has.sum(-1, keepdim=True)
        slope = 2 - (lacks * lacks).sum(-1, keepdim=True) / p
        slope = slope - (has * has).sum(-1, keepdim=True) / q
        shift = shift - (q / p).log() / slope
    return shift


def _all_or_none(x: Tensor, k: int, temperature: float | Tensor) -> Tensor:
    everything = torch.full_like(x, 1.0 if k else 0.0)
    available = torch.where(x == -torch.inf, 0.0, everything)
    unknown = x.isnan().any(-1, keepdim=True)
    if k:
        unknown = unknown | x.isposinf().all(-1, keepdim=True)
    if isinstance(temperature, Tensor):
        unknown = unknown | temperature.isnan()
    return torch.where(unknown, torch.nan, available)


def _check(x: Tensor, k: int, temperature: float | Tensor) -> None:
    """Raise for what can be seen without looking at the numbers of a tensor."""
    if require_count("k", k, 0) > x.shape[-1]:
        raise ArgumentError(
            f"k: expected at most {x.shape[-1]}, the last dimension of x, got {k}"
        )
    if not isinstance(temperature, Tensor):
        require_positive("temperature", temperature)
        return
    shape = list(temperature.shape)
    rows = [*x.shape[:-1], 1]
    fits = len(shape) <= len(rows) and all(
        size in (1, row)
        for size, row in zip(reversed(shape), reversed(rows), strict=False)
    )
    if not fits:
        raise ShapeError(
            f"temperature: expected [] or one per row of x, {rows}, got {shape}"
        )
