"""Where units are made: on this machine, on a Ray cluster, or by Slurm."""

import argparse

from diffplan.errors import ArgumentError
from reproductions.common.engines.base import Engine
from reproductions.common.engines.local import WORKERS, Local
from reproductions.common.engines.ray_cluster import Ray
from reproductions.common.engines.slurm import Slurm

__all__ = [
    "WORKERS",
    "Engine",
    "Local",
    "Ray",
    "Slurm",
    "add_engine_options",
    "engine_of",
]

_OF = {"workers": ("local", "ray"), "address": ("ray",), "slurm": ("slurm",)}


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `engine_of` reads."""
    add = parser.add_argument_group("where units are made").add_argument
    add(
        "--engine",
        choices=("local", "ray", "slurm"),
        default="local",
        help="processes of this machine (default), tasks of Ray, or jobs of Slurm; "
        "every machine must see the same --directory",
    )
    add(
        "--workers",
        type=int,
        default=None,
        help=f"units at the same time on this machine, {WORKERS} by default",
    )
    add("--cpus", type=int, default=1, help="and threads of each unit, 1 by default")
    add("--gpus", type=float, default=0, help="of each unit, 0 by default")
    add("--address", default=None, help="of a Ray cluster; without it one starts here")
    add(
        "--slurm",
        default=None,
        metavar="key=value,…",
        help="such as partition=gpu,timeout_min=240,mem_gb=8; or cluster=local, "
        "which simulates Slurm here",
    )


def engine_of(options: argparse.Namespace) -> Engine:
    """Return the engine that the options ask for.

    Raises:
        ArgumentError: an option that the engine would ignore, or one out of range.
        MissingDependencyError: the engine's package is not installed.
    """
    for name, engines in _OF.items():
        if getattr(options, name) is not None and options.engine not in engines:
            raise ArgumentError(f"--{name}: {options.engine} has no use for it")
    if options.workers is not None and options.address is not None:
        raise ArgumentError("--workers: the cluster at --address decides how many")
    if options.cpus < 1 or options.gpus < 0:
        raise ArgumentError(
            "--cpus, --gpus: expected at least 1 and 0, got "
            f"{options.cpus} and {options.gpus:g}"
        )
    if options.engine == "ray":
        workers = options.workers
        return Ray(options.address, options.cpus, options.gpus, workers)
    if options.engine == "slurm":
        if options.gpus != int(options.gpus):
            raise ArgumentError(f"--gpus: expected whole ones, got {options.gpus:g}")
        return Slurm(options.cpus, int(options.gpus), _pairs(options.slurm or ""))
    if options.gpus:
        raise ArgumentError("--gpus: --engine local shows every GPU to each unit")
    return Local(WORKERS if options.workers is None else options.workers, options.cpus)


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(name and value for name, _, value in pairs):
        raise ArgumentError(f"--slurm: expected key=value,key=value, got {text!r}")
    return {name: value for name, _, value in pairs}
