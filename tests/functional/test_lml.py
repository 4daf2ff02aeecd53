"""The limited multi-label projection against root finding and convex programming."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck

from diffplan.errors import ArgumentError, ShapeError, TensorTypeError
from diffplan.functional import hard_top_k, lml

ULP = {"rtol": 1e-14, "atol": 1e-16}

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def by_root_finding(x: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """The projection of one row, by Brent's method in float64."""
    z = x.double().numpy() / temperature
    z = z - np.sort(z)[-k]  # the k-th largest becomes 0: keeps digits of huge scores

    def excess(shift: float) -> float:
        return expit(z + shift).sum() - k

    span = 800 + np.abs(z[np.isfinite(z)]).max()
    shift = brentq(excess, -span, span, xtol=1e-14, rtol=1e-15)
    return torch.as_tensor(expit(z + shift))


def scores_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


# --- values ---------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 20.0])
@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 2), (100, 10), (100, 99), (300, 1)])
def test_equals_root_finding(n: int, k: int, temperature: float) -> None:
    x = scores_of(4, n)
    expected = torch.stack([by_root_finding(row, k, temperature) for row in x])
    torch.testing.assert_close(lml(x, k, temperature), expected, rtol=0, atol=1e-13)
    single = lml(x.float(), k, temperature)
    nearest = torch.stack([by_root_finding(r, k, temperature) for r in x.float()])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), nearest, rtol=0, atol=2e-6)


def test_two_entries_in_closed_form() -> None:
    x = scores_of(50, 2)
    first = torch.sigmoid((x[:, :1] - x[:, 1:]) / (2 * 0.7))
    expected = torch.cat([first, 1 - first], dim=-1)
    torch.testing.assert_close(lml(x, 1, 0.7), expected, rtol=1e-13, atol=1e-15)


@each_dtype
@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e4, 1e30])
def test_equal_scores_get_equal_weights(value: float, dtype: torch.dtype) -> None:
    weights = lml(torch.full((3, 7), value, dtype=dtype), 2)
    torch.testing.assert_close(weights, torch.full_like(weights, 2 / 7))


def test_temperature_zero_is_the_hard_choice_and_infinity_the_even_one() -> None:
    x = scores_of(5, 40)
    assert torch.equal(lml(x, 6, 1e-8), hard_top_k(x, 6))
    torch.testing.assert_close(lml(x, 6, 1e9), torch.full_like(x, 6 / 40))
    tied = torch.tensor([2.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(lml(tied, 2, 1e-8), torch.tensor([1.0, 0.5, 0.5, 0.0]))


FAMILIES = {
    "normal": lambda n: torch.randn(n),
    "heavy tails": lambda n: torch.randn(n) / torch.rand(n).clamp_min(1e-6),
    "even steps": lambda n: torch.linspace(-1, 1, n),
    "geometric": lambda n: torch.logspace(-9, 1, n),
    "few values": lambda n: torch.randint(3, (n,)).double(),
    "one apart": lambda n: torch.cat([torch.ones(1), torch.zeros(n - 1)]),
    "one behind": lambda n: torch.cat([-torch.ones(1), torch.zeros(n - 1)]),
    "two groups": lambda n: (torch.arange(n) < n // 3).double(),
    "groups and a bridge": lambda n: torch.cat(
        [torch.ones(n // 2), torch.rand(1), torch.zeros(n - n // 2 - 1)]
    ),
    "logistic quantiles": lambda n: torch.logit((torch.arange(n) + 0.5) / n),
}


@each_dtype
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sum_is_k_for_scores_of_any_kind(family: str, dtype: torch.dtype) -> None:
    # The number of steps is fixed; here it must be enough.
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for n in (2, 3, 10, 100, 1000, 20000):
        for scale in (1e-4, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4):
            x = (scale * FAMILIES[family](n)).to(dtype)
            for k in {1, 2, n // 10, n // 2, n - 1} - {0}:
                if k >= n:
                    continue
                weights = lml(x, k)
                assert abs(weights.double().sum() - k) <= tolerance * k, (n, k, scale)
                assert ((weights >= 0) & (weights <= 1)).all()


@each_dtype
def test_the_sum_is_k_for_groups_of_entries(dtype: torch.dtype) -> None:
    # What the steps have most trouble with: few groups of very different size, at
    # distances of all magnitudes (see `benchmarks/lml_steps.py`).
    rng = np.random.default_rng(0)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    for n in (100, 1024):
        for _ in range(150):
            sizes = np.exp(rng.uniform(0, np.log(n), 6))
            groups = rng.choice(6, n, p=sizes / sizes.sum())
            places = rng.normal(size=6) * np.exp(rng.uniform(-2, 3))
            x = torch.as_tensor(places[groups]).to(dtype)
            k = min(n - 1, int(np.exp(rng.uniform(0, np.log(n)))))
            for chosen in (k, n - k):
                total = lml(x, chosen).double().sum()
                assert abs(total - chosen) <= tolerance * chosen


@each_dtype
def test_huge_scores_far_from_zero_keep_their_differences(dtype: torch.dtype) -> None:
    # Multiples of 1/128 near 1e4 are exact in float32.
    offsets = torch.arange(-8, 8, dtype=dtype) / 128
    for sign in (-1e4, 1e4):
        torch.testing.assert_close(
            lml(sign + offsets, 3, 0.01), lml(offsets, 3, 0.01), rtol=0, atol=2e-6
        )


rows = st.lists(
    st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, 1.0, -1e4, 1e4]),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(row=rows, temperature=st.floats(1e-3, 1e3), data=st.data())
def test_what_holds_for_any_scores(
    row: list[float], temperature: float, data: st.DataObject
) -> None:
    n = len(row)
    k = data.draw(st.integers(0, n))
    x = torch.tensor(row)
    weights = lml(x, k, temperature)
    assert torch.isfinite(weights).all()
    assert ((weights >= 0) & (weights <= 1)).all()
    assert abs(weights.double().sum() - k) <= 1e-6 * k
    in_order = weights[x.argsort()]
    assert (in_order.diff() >= 0).all()  # a higher score weighs at least as much
    order = torch.tensor(data.draw(st.permutations(range(n))))
    torch.testing.assert_close(
        lml(x[order], k, temperature), weights[order], rtol=0, atol=1e-6
    )
    others = lml(-x, n - k, temperature)  # choosing k is leaving out n - k
    torch.testing.assert_close(others, 1 - weights, rtol=0, atol=1e-6)
    if 0 < k < n:
        expected = by_root_finding(x, k, temperature)
        torch.testing.assert_close(weights.double(), expected, rtol=0, atol=5e-6)


@each_dtype
def test_choosing_all_or_none(dtype: torch.dtype) -> None:
    x = scores_of(3, 4, dtype=dtype).requires_grad_()
    for k, value in ((4, 1.0), (0, 0.0)):
        weights = lml(x, k)
        assert (weights == value).all()
        (gradient,) = torch.autograd.grad(weights.sum(), x)
        assert (gradient == 0).all()
    assert lml(torch.zeros(3, 0, dtype=dtype), 0).shape == (3, 0)


def test_any_leading_dimensions_and_no_row_sees_another() -> None:
    x = scores_of(2, 3, 9)
    weights = lml(x, 4)
    assert weights.shape == x.shape
    for i in range(2):
        for j in range(3):
            # up to the last bit, which depends on the place in memory
            torch.testing.assert_close(weights[i, j], lml(x[i, j], 4), **ULP)
    spoilt = x.clone()
    spoilt[0, 0] = torch.nan
    torch.testing.assert_close(lml(spoilt, 4)[1], weights[1], **ULP)
    torch.testing.assert_close(lml(spoilt, 4)[0, 1:], weights[0, 1:], **ULP)
    assert lml(torch.zeros(0, 5), 2).shape == (0, 5)


def test_the_arguments_stay_as_they_are() -> None:
    x, temperature = scores_of(3, 5), torch.tensor(0.5, dtype=torch.float64)
    before = x.clone()
    lml(x, 2, temperature)
    assert torch.equal(x, before)
    assert temperature == 0.5


# --- infinities and NaN ---------------------------------------------------------------


@each_dtype
def test_entries_of_minus_infinity_weigh_nothing(dtype: torch.dtype) -> None:
    inf = torch.inf
    x = torch.tensor([0.3, -inf, 1.0, -0.2, -inf], dtype=dtype).requires_grad_()
    weights = lml(x, 2, 0.4)
    alone = lml(x.detach()[[0, 2, 3]], 2, 0.4)
    torch.testing.assert_close(weights[[0, 2, 3]], alone)
    assert (weights[[1, 4]] == 0).all()
    (gradient,) = torch.autograd.grad(weights[0], x)
    assert torch.isfinite(gradient).all()
    assert (gradient[[1, 4]] == 0).all()


@each_dtype
@pytest.mark.parametrize("available", [0, 1, 2, 3])
def test_with_at_most_k_available_each_gets_one(
    available: int, dtype: torch.dtype
) -> None:
    x = torch.full((6,), -torch.inf, dtype=dtype)
    x[:available] = torch.tensor([-5.0, 1e4, 3.0], dtype=dtype)[:available]
    x.requires_grad_()
    for k in (3, 6):
        weights = lml(x, k, 0.1)
        assert weights.tolist() == [1.0] * available + [0.0] * (6 - available)
        (gradient,) = torch.autograd.grad(weights.sum(), x)
        assert (gradient == 0).all()


def test_the_temperature_has_a_gradient_beside_minus_infinity() -> None:
    x = torch.tensor([0.3, -torch.inf, 1.0, -0.2], dtype=torch.float64)
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(lml(x, 2, temperature)[0], temperature)
    kept = lml(x[[0, 2, 3]], 2, temperature)[0]
    (expected,) = torch.autograd.grad(kept, temperature)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_nan_spoils_its_row_only(k: int) -> None:
    x = torch.tensor([[0.0, torch.nan, 1.0], [0.5, 0.1, 0.2]])
    weights = lml(x, k)
    assert weights[0].isnan().all()
    torch.testing.assert_close(weights[1], lml(x[1], k))


def test_plus_infinity_is_chosen_and_too_many_of_them_are_nan() -> None:
    x = torch.tensor([torch.inf, 0.3, 0.1, -0.5])
    weights = lml(x, 2)
    assert weights[0] == 1
    torch.testing.assert_close(weights[1:], lml(x[1:], 1))
    assert lml(torch.tensor([torch.inf, torch.inf, 0.0]), 1).isnan().all()


# --- derivatives ----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(2, 1), (6, 2), (6, 5), (12, 1)])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_first_and_second_derivatives(n: int, k: int, temperature: float) -> None:
    x = scores_of(3, n).requires_grad_()
    assert gradcheck(lambda value: lml(value, k, temperature), (x,))
    assert gradgradcheck(lambda value: lml(value, k, temperature), (x,))


@pytest.mark.parametrize("shape", [(), (1,), (3, 1), (1, 1)])
def test_derivatives_with_respect_to_the_temperature(shape: tuple[int, ...]) -> None:
    x = (scores_of(2, 3, 5) + 7).requires_grad_()
    temperature = (0.5 + scores_of(*shape, seed=1).square()).requires_grad_()
    assert gradcheck(lambda value, t: lml(value, 2, t), (x, temperature))
    assert gradgradcheck(lambda value, t: lml(value, 2, t), (x, temperature))


def test_derivatives_at_ties() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 0.0, -1.0], dtype=torch.float64)
    x.requires_grad_()
    assert gradcheck(lambda value: lml(value, 2, 0.5), (x,))
    assert gradgradcheck(lambda value: lml(value, 2, 0.5), (x,))


def test_the_temperature_scales_the_scores() -> None:
    x = scores_of(4, 8)
    temperature = torch.tensor([[0.2], [0.5], [1.0], [3.0]], dtype=torch.float64)
    weights = lml(x, 3, temperature)
    torch.testing.assert_close(weights, lml(x / temperature, 3))
    torch.testing.assert_close(weights[1], lml(x[1], 3, 0.5))


@each_dtype
def test_saturated_weights_have_a_zero_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([3e4, 2e4, -1e4, 0.0], dtype=dtype).requires_grad_()
    temperature = torch.tensor(0.1, dtype=dtype, requires_grad=True)
    weights = lml(x, 2, temperature)
    assert weights.tolist() == [1.0, 1.0, 0.0, 0.0]
    loss = (weights * torch.arange(4, dtype=dtype)).sum()
    first = torch.autograd.grad(loss, (x, temperature), create_graph=True)
    assert all((gradient == 0).all() for gradient in first)
    second = torch.autograd.grad(sum(g.sum() for g in first), (x, temperature))
    assert all((gradient == 0).all() for gradient in second)


def test_single_precision_gradients_are_those_of_double() -> None:
    weight = scores_of(20, 100, seed=1)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x = scores_of(20, 100, dtype=torch.float32).to(dtype).requires_grad_()
        loss = (lml(x, 10, 0.3) * weight.to(dtype)).sum()
        gradients.append(torch.autograd.grad(loss, x)[0].double())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_are_computed_in_single(dtype: torch.dtype) -> None:
    x = scores_of(4, 50, dtype=dtype).requires_grad_()
    temperature = torch.tensor(0.5, dtype=dtype, requires_grad=True)
    weights = lml(x, 5, temperature)
    assert weights.dtype == dtype
    expected = lml(x.detach().float(), 5, 0.5)
    assert torch.equal(weights, expected.to(dtype))
    gradients = torch.autograd.grad(weights[0, 0], (x, temperature))
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype]


# --- convex programming ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # of the packages that solve cones
def test_equals_the_convex_program_and_its_derivative() -> None:
    cp = pytest.importorskip("cvxpy")
    layers = pytest.importorskip("cvxpylayers.torch")
    n, k, temperature = 8, 3, 0.6
    scores, weights = cp.Parameter(n), cp.Variable(n)
    entropy = cp.sum(cp.entr(weights) + cp.entr(1 - weights))
    program = cp.Problem(
        cp.Minimize(-scores @ weights - temperature * entropy), [cp.sum(weights) == k]
    )
    layer = layers.CvxpyLayer(program, parameters=[scores], variables=[weights])
    x = scores_of(3, n).requires_grad_()
    cotangent = scores_of(3, n, seed=1)
    (expected,) = layer(x, solver_args={"eps": 1e-10, "max_iters": 50000})
    got = lml(x, k, temperature)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad((got * cotangent).sum(), x)[0],
        torch.autograd.grad((expected * cotangent).sum(), x)[0],
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_no_feasible_point_is_better(temperature: float) -> None:
    # The program is strictly convex: its minimum is below every other feasible point.
    n, k = 10, 3
    x = scores_of(n)

    def value(weights: Tensor) -> Tensor:
        entropy = torch.special.entr(weights) + torch.special.entr(1 - weights)
        return -(x * weights).sum(-1) - temperature * entropy.sum(-1)

    best = lml(x, k, temperature)
    for size in (1e-3, 0.1, 1.0):
        direction = scores_of(500, n, seed=2)
        others = lml(torch.logit(best) + size * direction, k)
        assert (value(others) >= value(best) - 1e-12).all()


# --- transforms -----------------------------------------------------------------------


def test_vmap_equals_a_loop() -> None:
    x = scores_of(4, 3, 6)
    temperature = torch.tensor([0.2, 0.5, 1.0, 2.0], dtype=torch.float64)
    mapped = torch.func.vmap(lambda row: lml(row, 2))(x)
    torch.testing.assert_close(mapped, lml(x, 2))
    mapped = torch.func.vmap(lambda row, t: lml(row, 2, t))(x, temperature)
    torch.testing.assert_close(mapped, lml(x, 2, temperature[:, None, None]))
    mapped = torch.func.vmap(lambda t: lml(x[0], 2, t))(temperature)
    expected = torch.stack([lml(x[0], 2, t) for t in temperature])
    torch.testing.assert_close(mapped, expected)
    mapped = torch.func.vmap(lambda row: lml(row, 2), in_dims=2, out_dims=2)(
        x.transpose(1, 2)
    )
    torch.testing.assert_close(mapped.transpose(1, 2), lml(x, 2))


def test_torch_func_derivatives() -> None:
    x = scores_of(6)
    temperature = torch.tensor(0.7, dtype=torch.float64)

    def loss(row: Tensor, t: Tensor) -> Tensor:
        return (lml(row, 2, t) * torch.arange(6)).sum().square()

    got = torch.func.grad(loss, argnums=(0, 1))(x, temperature)
    leaves = x.clone().requires_grad_(), temperature.clone().requires_grad_()
    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(got, expected)
    rows = scores_of(4, 6)
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(
        rows, temperature
    )
    looped = torch.stack([torch.func.grad(loss)(row, temperature) for row in rows])
    torch.testing.assert_close(mapped, looped)
    second = torch.func.jacrev(torch.func.grad(loss))(x, temperature)
    expected = torch.autograd.functional.hessian(lambda v: loss(v, temperature), x)
    torch.testing.assert_close(second, expected)


def test_the_jacobian_is_that_of_the_formula() -> None:
    x, temperature = scores_of(7), 0.4
    jacobian = torch.func.jacrev(lambda row: lml(row, 3, temperature))(x)
    y = lml(x, 3, temperature)
    h = y * (1 - y)
    expected = (torch.diag(h) - torch.outer(h, h) / h.sum()) / temperature
    torch.testing.assert_close(jacobian, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_forward_mode() -> None:
    def weights(row: Tensor) -> Tensor:
        return lml(row, 3, 0.4)

    x = scores_of(7)
    forward = torch.func.jacfwd(weights)(x)
    torch.testing.assert_close(forward, torch.func.jacrev(weights)(x))


def test_nothing_is_synchronised_with_the_host() -> None:
    # Fake tensors have no numbers to look at.
    with FakeTensorMode():
        x = torch.randn(3, 20, requires_grad=True)
        temperature = torch.rand((), requires_grad=True)
        for k in (0, 5, 20):
            weights = lml(x, k, temperature)
            torch.autograd.grad(weights.sum(), (x, temperature))


@pytest.mark.compiled
@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
def test_compiles_into_one_graph(backend: str) -> None:
    x = scores_of(4, 9).requires_grad_()
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def loss(row: Tensor, t: Tensor) -> Tensor:
        return (lml(row, 3, t) * torch.arange(9)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    got = torch.autograd.grad(compiled(x, temperature), (x, temperature))
    expected = torch.autograd.grad(loss(x, temperature), (x, temperature))
    torch.testing.assert_close(got, expected)


# --- refusals -------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-1, 5])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ArgumentError, match="k:"):
        lml(torch.zeros(3, 4), k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ArgumentError, match="temperature"):
        lml(torch.zeros(4), 2, temperature)


@pytest.mark.parametrize("shape", [(4,), (3,), (2, 1), (1, 3, 1), (3, 4)])
def test_a_temperature_that_does_not_fit_the_rows_is_refused(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(ShapeError, match="temperature"):
        lml(torch.zeros(3, 4), 2, torch.ones(shape))


def test_other_things_than_rows_of_numbers_are_refused() -> None:
    with pytest.raises(ShapeError, match="x"):
        lml(torch.tensor(1.0), 1)
    with pytest.raises(TensorTypeError, match="x"):
        lml(torch.arange(3), 1)


def test_an_infinite_temperature_gives_equal_weights() -> None:
    x = torch.tensor([[3.0, 1.0, -2.0, 5.0], [0.0, -torch.inf, 1.0, 2.0]])
    expected = torch.tensor([[0.5] * 4, [2 / 3, 0.0, 2 / 3, 2 / 3]])
    torch.testing.assert_close(lml(x, 2, math.inf), expected)
    temperature = torch.tensor(math.inf, requires_grad=True)
    x = x.requires_grad_()
    weights = lml(x, 2, temperature)
    torch.testing.assert_close(weights, expected)
    by_x, by_temperature = torch.autograd.grad(
        (weights * x.detach().clamp_min(-9)).sum(), (x, temperature)
    )
    assert (by_x == 0).all()
    assert by_temperature == 0


def test_a_temperature_that_left_its_range_shows() -> None:
    x = torch.tensor([[3.0, 1.0, 2.0]]).expand(4, 3)
    temperature = torch.tensor([[-1.0], [0.0], [torch.nan], [1.0]])
    weights = lml(x, 2, temperature)
    assert weights[:3].isnan().all()
    assert weights[3].isfinite().all()


@pytest.mark.parametrize("scale", [1e-22, 1e-24, 1e-30])
def test_gradient_by_a_tiny_temperature(scale: float) -> None:
    def gradient(scale: float, dtype: torch.dtype) -> Tensor:
        # the weights depend on x / τ only, so that the gradient goes as 1 / scale
        x = scale * torch.tensor([3.0, 1.0, 2.0], dtype=dtype)
        temperature = torch.tensor(scale, dtype=dtype, requires_grad=True)
        score = (lml(x, 1, temperature) * torch.tensor([1.0, 2.0, 4.0])).sum()
        return torch.autograd.grad(score, temperature)[0]

    expected = gradient(1.0, torch.float64).item() / scale
    assert gradient(scale, torch.float32).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_wrong_temperature_spoils_its_row_for_every_k(k: int) -> None:
    temperature = torch.tensor([[1.0], [math.nan], [-1.0], [0.0]])
    found = lml(torch.tensor([1.0, 2.0]).expand(4, 2), k, temperature)
    assert found.isnan().all(-1).tolist() == [False, True, True, True]
    assert found[0].sum().item() == pytest.approx(k)


def test_infinity_everywhere_is_nan_also_if_all_are_chosen() -> None:
    x = torch.tensor([[math.inf, math.inf], [math.inf, 1.0]])
    assert lml(x, 2).isnan().tolist() == [[True, True], [False, False]]
