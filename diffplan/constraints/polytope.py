"""Actions inside a polytope; the only file that imports cvxpylayers, which is optional.

The nearest point of a polytope has no closed form. cvxpylayers (Agrawal et al. 2019,
"Differentiable convex optimization layers", arXiv:1910.12430) solves the quadratic
program well enough to see which sides are tight. Whether they are is then checked by
the conditions of optimality, other sides are found where not, and the answer and its
derivatives are those of the tight sides (`diffplan.functional._polyhedron`).
"""

import warnings
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from diffplan._checks import missing
from diffplan.constraints._base import ActionConstraint, as_tensor
from diffplan.errors import ArgumentError, ShapeError, UnsupportedProblemError
from diffplan.functional._derivatives import inside_transform, is_mapped
from diffplan.functional._polyhedron import Nearest, along_sides, find_nearest

_SOLVER = {"solve_method": "SCS", "eps": 1e-9, "max_iters": 5000}
_TIGHT = 1e-6
"""How near, in distances that are of the order of one, its answer meets a side."""


class Polytope(ActionConstraint):
    """Actions with matrix · action ≤ offset, at each time step.

    Each action outside costs a small quadratic program on the CPU, about a
    millisecond: fine for gradient planners with few candidates, slow for sampling
    planners with thousands. Where the box has bounds of each step or problem, actions
    with other bounds are solved one after the other. Actions inside cost nothing. How
    far away they are and how the rows are scaled does not matter. Derivatives with
    respect to actions, bounds, matrix and offset are right to any order. Neither
    `torch.compile` nor `torch.func.vmap` goes through it.

    Args:
        matrix: G, `[C, A]`, no row zero; may carry a graph.
        offset: h, `[C]`; may carry a graph.

    Raises:
        MissingDependencyError: cvxpylayers is not installed.
        ShapeError: matrix and offset do not fit each other.
        ArgumentError: a row of the matrix is zero, or a number is not finite.

    Example:
        >>> budget = Polytope([[1.0, 1.0]], [1.0])  # doctest: +SKIP
        >>> budget.project(torch.tensor([1.0, 1.0]))  # doctest: +SKIP
        tensor([0.5000, 0.5000])
    """

    def __init__(
        self, matrix: Tensor | list[list[float]], offset: Tensor | list[float]
    ) -> None:
        _layer(1, 1)  # before any work is lost
        self.matrix = as_tensor("matrix", matrix)
        self.offset = as_tensor("offset", offset)
        shape = self.matrix.shape
        if len(shape) != 2 or 0 in shape or self.offset.shape != shape[:1]:
            raise ShapeError(
                "matrix, offset: expected [C, A] and [C] with at least one row, got "
                f"{list(shape)} and {list(self.offset.shape)}"
            )
        largest = self.matrix.detach().abs().amax(dim=-1)
        if not (largest > 0).all():
            raise ArgumentError(
                f"matrix: expected no row of zeros, got row {int(largest.argmin())}"
            )
        self.size = self._rows(self.matrix)[1].detach().abs()

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the polytope, same shape `[…, A]`."""
        return _nearest(actions, *self._rows(actions))

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest actions inside the polytope and inside a box.

        Args:
            actions: `[…, A]`.
            low: `[A]`, or what lines up with the actions.
            high: Likewise, of the same shape.

        Raises:
            ArgumentError: they have no action in common.
        """
        matrix, offset = self._rows(actions)
        eye = torch.eye(len(matrix[0]), dtype=matrix.dtype, device=matrix.device)
        below, above = (
            torch.isfinite(side).reshape(-1, side.shape[-1]).any(0)
            for side in (low, high)
        )
        matrix = torch.cat([matrix, -eye[below], eye[above]])
        offset = offset.expand(*low.shape[:-1], -1)
        ends = -low[..., below].double(), high[..., above].double()
        offset = torch.cat([offset, *ends], dim=-1)
        return _nearest(actions, matrix, offset).clamp(low, high)

    def excess(self, actions: Tensor) -> Tensor:
        """Return the distances beyond each side `[…, C]`; mere rounding is zero."""
        matrix, offset = (side.to(actions) for side in self._rows(actions))
        beyond = actions @ matrix.mT - offset
        # of the products that cancel, which may be far larger than what they leave
        size = (actions.abs() @ matrix.abs().mT + offset.abs()).detach().clamp_min(1)
        rounding = 16 * torch.finfo(beyond.dtype).eps * size
        return torch.where(beyond > rounding, beyond, torch.zeros_like(beyond))

    def check_dim(self, name: str, dim: int) -> None:
        """Raise a `ShapeError` if the matrix has another number of columns."""
        if self.matrix.shape[1] != dim:
            raise ShapeError(
                f"{name}: expected a matrix [C, {dim}] (action_space.dim), got "
                f"{list(self.matrix.shape)}"
            )

    def _rows(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Sides as unit normals and distances, in float64, where the actions are."""
        matrix = self.matrix.to(actions.device).double()
        offset = self.offset.to(actions.device).double()
        # first by the largest entry: squares of small and large ones leave the range
        largest = matrix.detach().abs().amax(dim=-1)
        matrix, offset = matrix / largest[:, None], offset / largest
        lengths = matrix.norm(dim=-1)
        return matrix / lengths[:, None], offset / lengths

    def __repr__(self) -> str:
        return f"Polytope(matrix={self.matrix.tolist()}, offset={self.offset.tolist()})"


def _nearest(actions: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Solve for the actions outside; those inside are their own nearest point.

    Args:
        actions: `[…, A]`.
        matrix: `[C, A]`.
        offset: `[C]`, or what lines up with the actions, `[…, C]`.
    """
    if is_mapped(actions):
        raise UnsupportedProblemError(
            "constraints: Polytope looks at numbers, which torch.func.vmap hides; give "
            "the planner all problems in one batch"
        )
    points = actions.reshape(-1, actions.shape[-1])
    if offset.ndim > 1:
        offset = offset.expand(*actions.shape[:-1], -1).reshape(len(points), -1)
    fixed = points.detach().double()
    inside = (fixed @ matrix.detach().mT <= offset.detach()).all(dim=-1)
    outside = ~inside & torch.isfinite(fixed).all(dim=-1)
    if not outside.any():
        return actions
    given = points[outside].double()
    offset = offset if offset.ndim == 1 else offset[outside]
    single = torch.finfo(torch.float32).eps
    rounding = 8 * min(torch.finfo(actions.dtype).eps, single)
    found = _search(given.detach(), matrix.detach(), offset.detach(), rounding)
    if not found.found.all():
        first = int(found.found.to(torch.uint8).argmin())
        raise ArgumentError(
            "constraints: the polytope has no action inside the box (or they meet in "
            f"less than rounding), seen from {given[first].tolist()}"
        )
    solved = along_sides(found.points, given, matrix, offset, found.tight)
    index = outside.nonzero().expand(-1, points.shape[-1])
    return points.scatter(0, index, solved.to(points)).reshape(actions.shape)


def _search(points: Tensor, matrix: Tensor, offset: Tensor, rounding: float) -> Nearest:
    """Find the nearest points, those of equal sides together.

    Args:
        points: `[B, A]`.
        matrix: `[C, A]`.
        offset: `[C]` or `[B, C]`.
        rounding: See `find_nearest`.
    """
    if offset.ndim == 1:
        tight = _guess(points, matrix, offset)
        return find_nearest(points, matrix, offset, tight=tight, rounding=rounding)
    kinds, kind = offset.unique(dim=0, return_inverse=True)
    parts = [
        _search(points[kind == number], matrix, side, rounding)
        for number, side in enumerate(kinds)
    ]
    back = kind.argsort(stable=True).argsort()
    return Nearest(*(torch.cat(values)[back] for values in zip(*parts, strict=True)))


def _guess(points: Tensor, matrix: Tensor, offset: Tensor) -> Tensor | None:
    """Return the sides that cvxpylayers finds tight, `[B, C]`; None if it finds none.

    Far points and sides are left to the search, which does not depend on distances.
    """
    near = points.abs().amax() < 1e3 and offset.abs().amax() < 1e3
    if inside_transform() or not near:
        return None
    given = [value.cpu() for value in (points, matrix, offset)]
    try:
        with torch.no_grad():
            (solved,) = _layer(*matrix.shape)(*given, solver_args=_SOLVER)
    except Exception as error:
        # diffcp has an exception of its own, which is not worth a second import.
        if type(error).__name__ != "SolverError":
            raise
        return None
    gap = offset - solved.to(points) @ matrix.mT
    return gap < _TIGHT * (1 + offset.abs())


@lru_cache(maxsize=32)
def _layer(rows: int, dim: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return the program min ‖x - point‖² subject to G x ≤ h, set up once per size.

    Raises:
        MissingDependencyError: cvxpylayers is not installed.
    """
    try:
        with warnings.catch_warnings():
            # Its own use of torch.jit is no news to anyone here.
            warnings.simplefilter("ignore", DeprecationWarning)
            import cvxpy
            from cvxpylayers.torch import CvxpyLayer
    except ImportError as error:
        what = "diffplan.constraints.Polytope needs cvxpylayers"
        raise missing(what, "cvx") from error
    nearest, point = cvxpy.Variable(dim), cvxpy.Parameter(dim)
    matrix, offset = cvxpy.Parameter((rows, dim)), cvxpy.Parameter(rows)
    program = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(nearest - point)), [matrix @ nearest <= offset]
    )
    layer: Callable[..., tuple[Tensor, ...]] = CvxpyLayer(
        program, parameters=[point, matrix, offset], variables=[nearest]
    )
    return layer
