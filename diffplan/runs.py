"""Runs of `diffplan train`, in Python: what a run has learnt, from its folder."""

from diffplan._checks import missing
from diffplan._kinds import check_public

try:
    from diffplan._runs.folder import LoadedRun, load_run
except ModuleNotFoundError as error:
    raise missing(f"diffplan.runs needs {error.name}", "suite") from error

__all__ = ["LoadedRun", "load_run"]

check_public(globals(), __all__)
