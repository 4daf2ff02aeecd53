"""Actions inside a polytope; the only file that imports cvxpylayers, which is optional.

The nearest point of a polytope has no closed form. cvxpylayers solves the quadratic
programme and differentiates its solution (Agrawal et al. 2019, "Differentiable convex
optimization layers", arXiv:1910.12430).
"""

import warnings
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

from diffplan.constraints.base import ActionConstraint, as_tensor
from diffplan.errors import ArgumentError, MissingDependencyError, ShapeError

_SOLVER = {"solve_method": "SCS", "eps": 1e-10, "max_iters": 100_000}
"""The default accuracy, 1e-4, would leave actions outside and gradients wrong."""


class Polytope(ActionConstraint):
    """Actions with matrix · action ≤ offset, at each time step.

    Each action outside costs a small quadratic programme on the CPU, about a
    millisecond: fine for gradient planners with few candidates, slow for sampling
    planners with thousands. Actions inside cost nothing. Derivatives are right to first
    order, with respect to actions, bounds, matrix and offset; a second one is refused
    by cvxpylayers. Neither `torch.compile` nor `torch.func.vmap` goes through it.

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
        if self.matrix.ndim != 2 or self.offset.shape != self.matrix.shape[:1]:
            raise ShapeError(
                "matrix, offset: expected [C, A] and [C], got "
                f"{list(self.matrix.shape)} and {list(self.offset.shape)}"
            )
        lengths = self.matrix.norm(dim=-1)
        if not (lengths > 0).all():
            raise ArgumentError(
                f"matrix: expected no row of zeros, got row {int(lengths.argmin())}"
            )
        self.size = (self.offset / lengths).detach().abs().amax()

    def project(self, actions: Tensor) -> Tensor:
        """Return the nearest actions inside the polytope, same shape `[…, A]`."""
        return _nearest(actions, *self._rows(actions))

    def project_within(self, actions: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the nearest actions inside the polytope and inside a box.

        Raises:
            ArgumentError: they have no action in common.
        """
        matrix, offset = self._rows(actions)
        eye = torch.eye(actions.shape[-1], dtype=actions.dtype, device=actions.device)
        below, above = torch.isfinite(low), torch.isfinite(high)
        matrix = torch.cat([matrix, -eye[below], eye[above]])
        offset = torch.cat([offset, -low[below], high[above]])
        return _nearest(actions, matrix, offset).clamp(low, high)

    def excess(self, actions: Tensor) -> Tensor:
        """Return the distances beyond each side `[…, C]`."""
        matrix, offset = self._rows(actions)
        return self.beyond_rounding((actions @ matrix.mT - offset).relu())

    def check_dim(self, name: str, dim: int) -> None:
        """Raise a `ShapeError` if the matrix has another number of columns."""
        if self.matrix.shape[1] != dim:
            raise ShapeError(
                f"{name}: expected a matrix [C, {dim}] (action_space.dim), got "
                f"{list(self.matrix.shape)}"
            )

    def _rows(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Sides as unit normals and distances, in the dtype of the actions."""
        lengths = self.matrix.norm(dim=-1)
        matrix, offset = self.matrix / lengths[:, None], self.offset / lengths
        return matrix.to(actions), offset.to(actions)

    def __repr__(self) -> str:
        return f"Polytope(matrix={self.matrix.tolist()}, offset={self.offset.tolist()})"


def _nearest(actions: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Solve for the actions outside; those inside are their own nearest point."""
    points = actions.reshape(-1, actions.shape[-1])
    with torch.no_grad():
        inside = (points @ matrix.mT <= offset).all(dim=-1)
        outside = ~inside & torch.isfinite(points).all(dim=-1)
    if not outside.any():
        return actions
    layer = _layer(*matrix.shape)
    given = [value.double().cpu() for value in (points[outside], matrix, offset)]
    try:
        (solved,) = layer(*given, solver_args=_SOLVER)
    except Exception as error:
        # diffcp has an exception of its own, which is not worth a second import.
        if type(error).__name__ != "SolverError":
            raise
        raise ArgumentError(
            f"constraints: the polytope has no action inside the box: {error}"
        ) from error
    index = outside.nonzero().expand(-1, points.shape[-1])
    return points.scatter(0, index, solved.to(points)).reshape(actions.shape)


def is_available() -> bool:
    """Return whether cvxpylayers is installed."""
    return find_spec("cvxpylayers") is not None


@lru_cache(maxsize=32)
def _layer(rows: int, dim: int) -> Callable[..., tuple[Tensor, ...]]:
    """The programme min ‖x - point‖² subject to G x ≤ h, set up once per size.

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
        raise MissingDependencyError(
            "diffplan.constraints.Polytope needs cvxpylayers: "
            'pip install "diffplan[cvx]"'
        ) from error
    nearest, point = cvxpy.Variable(dim), cvxpy.Parameter(dim)
    matrix, offset = cvxpy.Parameter((rows, dim)), cvxpy.Parameter(rows)
    programme = cvxpy.Problem(
        cvxpy.Minimize(cvxpy.sum_squares(nearest - point)), [matrix @ nearest <= offset]
    )
    layer: Callable[..., tuple[Tensor, ...]] = CvxpyLayer(
        programme, parameters=[point, matrix, offset], variables=[nearest]
    )
    return layer
