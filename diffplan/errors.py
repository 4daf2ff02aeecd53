"""Errors: a message names the argument, what was expected and what was given.

A user meets these before any work is lost. Each class also derives from the built-in
exception that Python programmers would catch (`ValueError`, `TypeError` …).
"""

__all__ = [
    "ArgumentError",
    "BatchIndexError",
    "ConstantPlanWarning",
    "DiffplanError",
    "FileError",
    "GradientError",
    "MissingDependencyError",
    "NonFiniteError",
    "NotATensorError",
    "NumericsWarning",
    "ShapeError",
    "SingularSystemError",
    "TensorTypeError",
    "UnknownNameError",
    "UnsupportedGradientError",
    "UnsupportedProblemError",
    "WorkerError",
]


class DiffplanError(Exception):
    """Base of everything that diffplan raises on purpose."""


class ArgumentError(DiffplanError, ValueError):
    """An argument has a value outside its range."""


class ShapeError(ArgumentError):
    """A tensor has the wrong shape."""


class TensorTypeError(DiffplanError, TypeError):
    """A tensor has the wrong dtype, device or is no tensor at all."""


class NotATensorError(ShapeError, TensorTypeError):
    """A function returned what is no tensor, and so has neither shape nor dtype."""


class NonFiniteError(ArgumentError):
    """A tensor holds NaN or infinity where only finite numbers make sense."""


class UnsupportedGradientError(DiffplanError, TypeError):
    """A planner was asked for a gradient that it cannot give correctly."""


class GradientError(DiffplanError, ArithmeticError):
    """A derivative that was asked for does not exist where the plan ended."""


class SingularSystemError(DiffplanError, RuntimeError):
    """A linear system that must be solved is singular, or not positive definite."""


class UnsupportedProblemError(DiffplanError, TypeError):
    """A problem lacks the refinement or capability that a planner needs."""


class BatchIndexError(DiffplanError, IndexError):
    """A batch has no such element or dimension."""


class UnknownNameError(DiffplanError, LookupError):
    """A task, preset or planner name that does not exist."""


class MissingDependencyError(DiffplanError, ImportError):
    """An optional package (or system library) is needed and absent."""


class FileError(ArgumentError):
    """A file is missing, damaged, or holds something else than what was asked for."""


class WorkerError(DiffplanError, RuntimeError):
    """An environment in a worker process failed, or the worker itself."""


class NumericsWarning(UserWarning):
    """A computation lost accuracy or had to be repaired."""


class ConstantPlanWarning(UserWarning):
    """A plan is a constant although what it was made from requires a gradient."""
