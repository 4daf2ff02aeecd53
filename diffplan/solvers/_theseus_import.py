"""The one place that imports Theseus, which is optional."""

import warnings

from diffplan.errors import MissingDependencyError

try:
    with warnings.catch_warnings():
        # CHOLMOD is absent from the install that works everywhere, and not needed.
        warnings.filterwarnings("ignore", message="Couldn't import skparse.cholmod")
        import theseus as th
        from theseus.optimizer.linear import LinearSolver
except ImportError as error:
    raise MissingDependencyError(
        'engine="theseus" and the solvers for Theseus need theseus-ai 0.2.3, whose '
        "plain install fails on most machines; the README's section on installing says "
        "what works"
    ) from error

__all__ = ["LinearSolver", "th"]
