"""Projections against SLSQP, cvxpylayers, closed forms and finite differences."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import same_to_rounding
from scipy.optimize import minimize
from torch import Tensor

from diffplan.errors import ArgumentError
from diffplan.functional._projections import (
    project_ball,
    project_ball_within,
    project_intersection,
    project_simplex,
)

INF = math.inf
NORMS = [1, 2, INF]

each_norm = pytest.mark.parametrize("norm", NORMS)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def nearest(
    point: Tensor, low: Tensor, high: Tensor, constraint: dict[str, object]
) -> np.ndarray:
    """The nearest point by SLSQP."""
    y, bounds = point.numpy(), list(zip(low.tolist(), high.tolist(), strict=True))
    found = minimize(
        lambda x: 0.5 * np.sum((x - y) ** 2),
        np.clip(y, low.numpy(), high.numpy()),
        jac=lambda x: x - y,
        bounds=bounds,
        constraints=constraint,
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def ball_for_scipy(radius: float, center: np.ndarray, norm: float) -> dict[str, object]:
    if norm == 2:
        inside = lambda x: radius**2 - np.sum((x - center) ** 2)  # noqa: E731
    elif norm == 1:
        signs = np.array(list(itertools.product([-1, 1], repeat=len(center))))
        inside = lambda x: radius - signs @ (x - center)  # noqa: E731
    else:
        inside = lambda x: radius - np.concatenate([x - center, center - x])  # noqa: E731
    return {"type": "ineq", "fun": inside}


@each_norm
@pytest.mark.parametrize("size", [1, 2, 5])
def test_nearest_point_of_a_ball_in_a_box(norm: float, size: int) -> None:
    # A box about the centre, and one beside it: then a side starts beyond the centre.
    for seed in range(8):
        center, shift, wide = draw(3, size, seed=seed)
        low = center + 0.6 * shift - 0.5
        high = low + 0.1 + wide.abs()
        gap = torch.linalg.vector_norm(center.clamp(low, high) - center, ord=norm)
        radius = gap + 0.3
        for point in 3 * draw(4, size, seed=seed + 100):
            got = project_ball(point, radius, center, norm, low, high)
            constraint = ball_for_scipy(radius.item(), center.numpy(), norm)
            expected = nearest(point, low, high, constraint)
            assert ((low <= got) & (got <= high)).all()
            length = torch.linalg.vector_norm(got - center, ord=norm)
            assert length <= radius * (1 + 1e-14)
            # SLSQP ends within about the root of its tolerance.
            np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_nearest_point_of_a_simplex_in_a_box(size: int) -> None:
    for seed in range(8):
        low = 0.1 * draw(size, seed=seed)
        high = low.clamp_min(0) + 0.1 + draw(size, seed=seed + 1).abs()
        least, most = low.clamp_min(0).sum(), high.sum()
        total = least + 0.6 * (most - least)
        for point in 2 * draw(4, size, seed=seed + 100):
            got = project_simplex(point, total, low, high)
            assert ((low <= got) & (got <= high) & (got >= 0)).all()
            torch.testing.assert_close(got.sum(), total, rtol=1e-14, atol=1e-14)
            constraint = {"type": "eq", "fun": lambda x, t=total: np.sum(x) - t.item()}
            expected = nearest(point, low.clamp_min(0), high, constraint)
            np.testing.assert_allclose(got, expected, atol=1e-6)


def test_closed_forms_without_a_box() -> None:
    wide = torch.full((2,), INF, dtype=torch.float64)
    point = torch.tensor([[3.0, 4.0], [0.1, 0.2], [-3.0, 0.5]], dtype=torch.float64)
    zero, one = torch.zeros(2, dtype=torch.float64), number(1.0)

    root = math.sqrt(9.25)
    for norm, expected in {
        2: [[0.6, 0.8], [0.1, 0.2], [-3 / root, 0.5 / root]],
        1: [[0.0, 1.0], [0.1, 0.2], [-1.0, 0.0]],
        INF: [[1.0, 1.0], [0.1, 0.2], [-1.0, 0.5]],
    }.items():
        got = project_ball(point, one, zero, norm, -wide, wide)
        torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))
    shares = project_simplex(point, one, -wide, wide)
    expected = [[0.0, 1.0], [0.45, 0.55], [0.0, 1.0]]
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64))


@each_norm
def test_points_inside_stay_to_the_last_bit(norm: float) -> None:
    points = 0.3 * draw(20, 3).tanh()
    box = torch.ones(3, dtype=torch.float64)
    got = project_ball(points, number(1.0), 0 * box, norm, -box, box)
    assert torch.equal(got, points)


@each_norm
def test_degenerate_sets(norm: float) -> None:
    zero, one = torch.zeros(3, dtype=torch.float64), number(1.0)
    wide = torch.full((3,), INF, dtype=torch.float64)
    points = draw(5, 3)
    # The centre itself, with coordinates on the axis, and ties.
    for point in (zero, torch.tensor([2.0, 0.0, 0.0]).double(), torch.ones(3).double()):
        got = project_ball(point, one, zero, norm, -wide, wide)
        assert torch.isfinite(got).all()
        assert torch.linalg.vector_norm(got, ord=norm) <= 1 + 1e-15
    # A box of one point, and a ball so small that it rounds to its centre.
    assert torch.equal(project_ball(points, one, zero, norm, zero, zero), 0 * points)
    tiny = project_ball(points, number(1e-300), zero, norm, -wide, wide)
    assert tiny.abs().max() <= 1e-300
    # One side open, the other closed: beyond the centre.
    low = torch.full((3,), 0.2, dtype=torch.float64)
    got = project_ball(points, one, zero, norm, low, wide)
    assert (got >= 0.2).all()
    assert (torch.linalg.vector_norm(got, ord=norm, dim=-1) <= 1 + 1e-15).all()


@each_norm
def test_a_ball_beside_the_box_keeps_the_box(norm: float) -> None:
    low, high = torch.tensor([2.0, -1.0]).double(), torch.tensor([3.0, 1.0]).double()
    points = 5 * draw(20, 2)
    got = project_ball(points, number(0.5), 0 * low, norm, low, high)
    assert ((low <= got) & (got <= high)).all()
    assert (got[:, 0] == 2.0).all()  # the side of the box that faces the ball


def test_a_simplex_beside_the_box_keeps_the_box() -> None:
    points = draw(10, 3)
    small, zero = torch.full((3,), 0.2).double(), torch.zeros(3).double()
    assert torch.equal(
        project_simplex(points, number(1.0), zero, small), small.expand(10, 3)
    )
    large = torch.full((3,), 0.5).double()
    assert torch.equal(
        project_simplex(points, number(1.0), large, 2 * large), large.expand(10, 3)
    )


def test_nan_stays_and_spoils_no_neighbour() -> None:
    points = draw(4, 3)
    points[1, 2] = math.nan
    box, one = torch.ones(3).double(), number(1.0)
    for project in (
        lambda x: project_simplex(x, one, 0 * box, box),
        *(
            lambda x, n=norm: project_ball(x, 0.5 * one, 0 * box, n, -box, box)
            for norm in NORMS
        ),
    ):
        got = project(points)
        assert got[1].isnan().any()
        keep = [0, 2, 3]
        same_to_rounding(got[keep], project(points[keep]))


@pytest.mark.parametrize("radius", [math.nan, -1.0, 0.0])
def test_a_radius_that_is_none_shows(radius: float) -> None:
    points, zero, side = draw(4, 3), torch.zeros(3).double(), torch.ones(3).double()
    for norm in NORMS:
        got = project_ball(points, number(radius), zero, norm, -side, side)
        assert got.isnan().all()
    got = project_ball_within(points, number(radius), zero, lambda x: x.clamp(-1, 1))
    assert got.isnan().all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@each_norm
def test_single_precision(norm: float, scale: float) -> None:
    points = (scale * 5 * draw(200, 4)).float()
    low = torch.full((4,), -0.8 * scale)
    radius = torch.tensor(scale)
    got = project_ball(points, radius, torch.zeros(4), norm, low, -low)
    lengths = torch.linalg.vector_norm(got, ord=norm, dim=-1)
    # Four coordinates of points up to 20 radii away, each rounded to 6e-8 of itself.
    assert (lengths <= radius * (1 + 5e-6)).all()
    assert ((low <= got) & (got <= -low)).all()
    shares = project_simplex(points, radius, low, -low)
    assert ((shares.sum(-1) - radius).abs() <= 5e-6 * scale).all()
    assert ((shares >= 0) & (shares <= -low)).all()


def arguments(size: int, seed: int) -> tuple[Tensor, ...]:
    """Point, radius, centre, low and high, with some of each kind of coordinate."""
    point = 2 * draw(6, size, seed=seed)
    center = 0.3 * draw(size, seed=seed + 1)
    low = center - 0.3 - draw(size, seed=seed + 2).abs()
    high = center + 0.3 + draw(size, seed=seed + 3).abs()
    values = (point, number(0.9), center, low, high)
    return tuple(value.requires_grad_() for value in values)


@each_norm
@pytest.mark.parametrize("seed", [0, 7])
def test_derivatives_of_balls_by_everything(norm: float, seed: int) -> None:
    def project(
        point: Tensor, radius: Tensor, center: Tensor, low: Tensor, high: Tensor
    ) -> Tensor:
        return project_ball(point, radius, center, norm, low, high)

    values = arguments(4, seed)
    assert torch.autograd.gradcheck(project, values)
    assert torch.autograd.gradgradcheck(project, values, fast_mode=True)


@pytest.mark.parametrize("seed", [0, 7])
def test_derivatives_of_simplices_by_everything(seed: int) -> None:
    point, total, _, _, high = arguments(4, seed)
    low = (0.1 * draw(4, seed=seed)).requires_grad_()
    high = (high.detach().abs() + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(project_simplex, (point, total, low, high))
    assert torch.autograd.gradgradcheck(project_simplex, (point, total, low, high))


@pytest.mark.filterwarnings("ignore")  # of the packages that solve cones
@pytest.mark.parametrize("kind", ["ball-1", "ball-2", "ball-inf", "simplex"])
def test_value_and_gradient_equal_cvxpylayers(kind: str) -> None:
    cvxpy = pytest.importorskip("cvxpy")
    layers = pytest.importorskip("cvxpylayers.torch")
    size, half, radius = 3, 0.7, 1.1
    variable, given_point = cvxpy.Variable(size), cvxpy.Parameter(size)
    limits = [variable <= half, variable >= (0.05 if kind == "simplex" else -half)]
    if kind == "simplex":
        limits.append(cvxpy.sum(variable) == radius)
    else:
        order = {"1": 1, "2": 2, "inf": "inf"}[kind.removeprefix("ball-")]
        limits.append(cvxpy.norm(variable, order) <= radius)
    distance = cvxpy.sum_squares(variable - given_point)
    layer = layers.CvxpyLayer(
        cvxpy.Problem(cvxpy.Minimize(distance), limits), [given_point], [variable]
    )
    points = (1.5 * draw(12, size, seed=3)).requires_grad_()
    exact = {"solve_method": "SCS", "eps": 1e-11, "max_iters": 100_000}
    (expected,) = layer(points, solver_args=exact)
    box = torch.full((size,), half, dtype=torch.float64)
    if kind == "simplex":
        got = project_simplex(points, number(radius), 0 * box + 0.05, box)
    else:
        norm = float(kind.removeprefix("ball-"))
        got = project_ball(points, number(radius), 0 * box, norm, -box, box)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)
    weights = draw(12, size, seed=4)
    gradients = [
        torch.autograd.grad((weights * answer).sum(), points)[0]
        for answer in (got, expected)
    ]
    # A point inside has no gradient from the layer: its cone is pointed there.
    moved = (got - points).detach().norm(dim=-1) > 1e-3
    assert moved.sum() >= 8
    torch.testing.assert_close(
        gradients[0][moved], gradients[1][moved], rtol=0, atol=1e-5
    )


@each_norm
def test_vmap_and_jacobians_see_one_point_at_a_time(norm: float) -> None:
    points = 2 * draw(5, 3)
    box = torch.ones(3, dtype=torch.float64)

    def project(point: Tensor) -> Tensor:
        return project_ball(point, number(0.8), 0 * box, norm, -box, box)

    torch.testing.assert_close(torch.func.vmap(project)(points), project(points))
    jacobian = torch.func.vmap(torch.func.jacrev(project))(points)
    # The derivative of a projection onto a convex set is symmetric, between 0 and 1.
    torch.testing.assert_close(jacobian, jacobian.mT)
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    assert ((eigenvalues > -1e-12) & (eigenvalues < 1 + 1e-12)).all()


def test_other_norms_are_refused() -> None:
    one = torch.ones(2)
    with pytest.raises(ArgumentError, match="norm: expected one of"):
        project_ball(one, one[0], one, 3, -one, one)


coordinates = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    one=coordinates,
    other=coordinates,
    radius=st.floats(0.1, 5),
    norm=st.sampled_from(NORMS),
)
def test_projections_are_firmly_nonexpansive(
    one: list[float], other: list[float], radius: float, norm: float
) -> None:
    # ‖Px - Py‖² ≤ (Px - Py)·(x - y) characterises projections onto convex sets.
    low = torch.tensor([-2.0, -0.5, 0.05], dtype=torch.float64)
    high = torch.tensor([1.0, 3.0, 4.0], dtype=torch.float64)
    points = torch.tensor([one, other], dtype=torch.float64)
    sets: list[Callable[[Tensor], Tensor]] = [
        lambda x: project_ball(x, number(radius), 0 * low, norm, low, high)
    ]
    if radius <= 8:
        sets.append(lambda x: project_simplex(x, number(radius), low, high))
    for project in sets:
        images = project(points)
        moved, way = images[0] - images[1], points[0] - points[1]
        assert moved.square().sum() <= (moved * way).sum() + 1e-12
        torch.testing.assert_close(project(images), images, rtol=1e-12, atol=1e-12)


def halfspace(normal: Tensor, offset: float) -> Callable[[Tensor], Tensor]:
    """The nearest point of {x : normal·x ≤ offset}, in closed form."""

    def project(point: Tensor) -> Tensor:
        beyond = ((point * normal).sum(-1, keepdim=True) - offset).relu()
        return point - beyond * normal / normal.square().sum()

    return project


def test_dykstra_finds_the_nearest_point_of_polyhedra() -> None:
    normals = draw(2, 3, seed=5)
    box = torch.ones(3, dtype=torch.float64)
    sets = [
        halfspace(normals[0], 0.2),
        halfspace(normals[1], 0.1),
        lambda x: x.clamp(-box, box),
    ]
    points = (2 * draw(6, 3, seed=10)).requires_grad_()
    got = project_intersection(points, sets, cycles=400)
    assert (got.abs() <= 1).all()  # the last set exactly
    constraint = {
        "type": "ineq",
        "fun": lambda x: np.array([0.2, 0.1]) - normals.numpy() @ x,
    }
    for point, answer in zip(points.detach(), got.detach(), strict=True):
        expected = nearest(point, -box, box, constraint)
        np.testing.assert_allclose(answer, expected, atol=1e-6)
    # On a face the derivative projects onto it: idempotent, and symmetric.
    (jacobian,) = torch.autograd.functional.jacobian(
        lambda x: project_intersection(x, sets, cycles=400), (points[0].detach(),)
    )
    torch.testing.assert_close(jacobian @ jacobian, jacobian, rtol=0, atol=1e-6)


def the_other_set(name: str) -> tuple[Callable[[Tensor], Tensor], dict[str, object]]:
    """A convex set that a ball of radius 0.6 about 0.1 meets, for us and for scipy."""
    box = torch.full((3,), 0.9, dtype=torch.float64)
    if name == "simplex":
        project = lambda x: project_simplex(x, number(1.0), 0 * box, box)  # noqa: E731
        return project, {"type": "eq", "fun": lambda x: np.sum(x) - 1}
    if name == "diamond":
        project = lambda x: project_ball(x, number(0.8), 0 * box, 1, -box, box)  # noqa: E731
        return project, ball_for_scipy(0.8, np.zeros(3), 1)
    center = torch.tensor([-0.5, 0.3, 0.1], dtype=torch.float64)
    project = lambda x: project_ball(x, number(0.7), center, 2, -box, box)  # noqa: E731
    return project, ball_for_scipy(0.7, center.numpy(), 2)


each_other_set = pytest.mark.parametrize("name", ["simplex", "diamond", "ball"])


@each_other_set
def test_a_ball_joins_any_other_set(name: str) -> None:
    project, constraint = the_other_set(name)
    low = torch.full((3,), 0.0 if name == "simplex" else -0.9, dtype=torch.float64)
    high = torch.full((3,), 0.9, dtype=torch.float64)
    center = torch.full((3,), 0.1, dtype=torch.float64)
    ball = ball_for_scipy(0.6, center.numpy(), 2)
    points = 2 * draw(12, 3, seed=6)
    got = project_ball_within(points, number(0.6), center, project)
    assert ((got - center).norm(dim=-1) <= 0.6 + 1e-14).all()
    torch.testing.assert_close(project(got), got, rtol=0, atol=1e-14)
    for point, answer in zip(points, got, strict=True):
        expected = nearest(point, low, high, [constraint, ball])
        np.testing.assert_allclose(answer, expected, atol=2e-6)


@each_other_set
def test_derivatives_of_a_ball_that_joins_another_set(name: str) -> None:
    project, _ = the_other_set(name)
    values = (
        (1.5 * draw(3, 3, seed=6)).requires_grad_(),
        number(0.6).requires_grad_(),
        torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True),
    )

    def both(point: Tensor, radius: Tensor, center: Tensor) -> Tensor:
        return project_ball_within(point, radius, center, project)

    assert torch.autograd.gradcheck(both, values, fast_mode=True)
    assert torch.autograd.gradgradcheck(both, values, atol=1e-4, fast_mode=True)


def test_a_ball_that_misses_the_other_set_leaves_its_nearest_point() -> None:
    box = torch.ones(2, dtype=torch.float64)
    points = 5 * draw(6, 2)
    got = project_ball_within(
        points, number(0.5), 3 * box, lambda x: x.clamp(-box, box)
    )
    assert torch.equal(got, box.expand(6, 2))


def test_a_simplex_of_one_action_is_its_total() -> None:
    total = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    low, high = torch.zeros(1).double(), torch.full((1,), torch.inf).double()
    for start in (-3.0, 0.2, 9.0):
        point = torch.tensor([start], dtype=torch.float64, requires_grad=True)
        found = project_simplex(point, total, low, high)
        by_total, by_point = torch.autograd.grad(found.sum(), (total, point))
        assert found.item() == pytest.approx(0.7)
        assert by_total == 1
        assert by_point == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius", [1e-30, 1e-24, 1.0, 1e19, 1e30])
@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_balls_of_any_size_are_kept(
    dtype: torch.dtype, radius: float, norm: float
) -> None:
    wide = torch.tensor([torch.inf], dtype=dtype)
    size, origin = torch.tensor(radius, dtype=dtype), torch.zeros(2, dtype=dtype)
    for share, inside in ((3.0, False), (0.1, True)):
        point = share * radius * torch.tensor([1.0, 1.2], dtype=dtype)
        found = project_ball(point, size, origin, norm, -wide, wide)
        # the same picture in units of the radius
        unit = project_ball(
            (point / size).double(),
            torch.ones(()).double(),
            origin.double(),
            norm,
            -wide.double(),
            wide.double(),
        )
        torch.testing.assert_close((found / size).double(), unit, rtol=1e-5, atol=1e-6)
        assert torch.equal(found, point) == inside


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_points_have_the_nearest_point_of_their_direction(
    dtype: torch.dtype,
) -> None:
    point = torch.tensor([3.0, 4.0, -1.0], dtype=dtype)
    low, high = torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype)
    one, origin = torch.tensor(0.8, dtype=dtype), torch.zeros(3, dtype=dtype)
    for scale in (1e4, 1e8):
        far = scale * point
        simplex = project_simplex(far, one, low, high)
        torch.testing.assert_close(simplex, torch.tensor([0.0, 0.8, 0.0], dtype=dtype))
        diamond = project_ball(far, one, origin, 1, low, high)
        torch.testing.assert_close(diamond, torch.tensor([0.0, 0.8, 0.0], dtype=dtype))
        both = project_ball_within(
            far, one, origin, lambda x: project_simplex(x, high[0], low, high)
        )
        # on the edge Σ = 1 of the simplex, where the ball cuts it: x² + (1 - x)² = 0.64
        edge = (1 + 0.28**0.5) / 2
        expected = torch.tensor([1 - edge, edge, 0.0], dtype=dtype)
        torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("point", "high", "expected"),
    [
        ([-INF, 1.0, 0.5], [INF, INF, INF], [0.0, 0.75, 0.25]),
        ([-INF, 1.0, 0.5], [1.0, 0.3, 0.3], [0.4, 0.3, 0.3]),
        ([-INF, -INF, -INF], [INF, INF, INF], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_simplex_takes_minus_infinity_as_a_limit(
    point: list[float], high: list[float], expected: list[float]
) -> None:
    low, most = torch.zeros(3).double(), torch.tensor(high).double()
    given = torch.tensor(point).double().requires_grad_()
    found = project_simplex(given, number(1.0), low, most)
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert torch.autograd.grad(found[1], given)[0].isfinite().all()
    # what it is the limit of
    far = given.detach().clamp_min(-1e6)
    torch.testing.assert_close(project_simplex(far, number(1.0), low, most), found)
