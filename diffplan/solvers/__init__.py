"""Numerical solvers: they turn a linearised problem into a step.

`theseus_chain` and `theseus_trajectory` are not imported here: they alone need Theseus.
"""

from diffplan._kinds import check_public
from diffplan.solvers._least_squares import AdaptiveDamping, FixedDamping
from diffplan.solvers.blocks import (
    BlockCholeskySolver,
    ChainBlocks,
    ChainSolver,
    ChainStep,
    RiccatiSolver,
    ShortSteps,
)

__all__ = [
    "AdaptiveDamping",
    "BlockCholeskySolver",
    "ChainBlocks",
    "ChainSolver",
    "ChainStep",
    "FixedDamping",
    "RiccatiSolver",
    "ShortSteps",
]

check_public(globals(), __all__)
