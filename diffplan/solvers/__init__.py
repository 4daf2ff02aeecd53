"""Numerical solvers: they turn a linearised problem into a step.

`solvers.theseus` is not imported here: it alone needs the package Theseus.
"""

from diffplan.solvers.blocks import (
    BlockCholeskySolver,
    ChainBlocks,
    ChainSolver,
    ChainStep,
    RetriedStep,
    RiccatiSolver,
    solve_with_retries,
)

__all__ = [
    "BlockCholeskySolver",
    "ChainBlocks",
    "ChainSolver",
    "ChainStep",
    "RetriedStep",
    "RiccatiSolver",
    "solve_with_retries",
]
