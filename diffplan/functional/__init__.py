"""Pure tensor mathematics; imports torch alone."""

from diffplan.functional.block_tridiagonal import (
    BlockTridiagonal,
    BlockTridiagonalFactor,
    normal_equations_step,
)
from diffplan.functional.chain import ChainRightHandSide, ChainSolution, ChainSystem
from diffplan.functional.coloured_noise import colour_noise
from diffplan.functional.linearize import batched_jacobian, linearize_dynamics
from diffplan.functional.riccati import RiccatiFactor, riccati_factorize, riccati_step
from diffplan.functional.rollout import rollout
from diffplan.functional.top_k import hard_top_k

__all__ = [
    "BlockTridiagonal",
    "BlockTridiagonalFactor",
    "ChainRightHandSide",
    "ChainSolution",
    "ChainSystem",
    "RiccatiFactor",
    "batched_jacobian",
    "colour_noise",
    "hard_top_k",
    "linearize_dynamics",
    "normal_equations_step",
    "riccati_factorize",
    "riccati_step",
    "rollout",
]
