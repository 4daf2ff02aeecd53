"""Numerical solvers: they turn a linearised problem into a step.

`theseus_chain` and `theseus_trajectory` are not imported here: they alone need Theseus.
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
