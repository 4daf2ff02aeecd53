"""Pure tensor mathematics; imports torch alone."""

from diffplan._kinds import check_public
from diffplan.functional._box_qp import BoxQPSolution, box_qp
from diffplan.functional._chain import ChainRightHandSide, ChainSolution, ChainSystem
from diffplan.functional._chain_factor import ChainFactor
from diffplan.functional._projections import (
    project_ball,
    project_ball_within,
    project_intersection,
    project_simplex,
)
from diffplan.functional._random import fold, standard_normal, uniform
from diffplan.functional._rollout import rollout
from diffplan.functional.block_tridiagonal import (
    BlockTridiagonal,
    BlockTridiagonalFactor,
    normal_equations_factorize,
)
from diffplan.functional.box_lqr import (
    IncrementalLQR,
    LimitedLaw,
    limited_rollout,
    limited_sweep,
)
from diffplan.functional.coloured_noise import colour_noise
from diffplan.functional.linearize import batched_jacobian, linearize_dynamics
from diffplan.functional.lml import lml
from diffplan.functional.lqr import (
    LQRFactor,
    LQRProblem,
    LQRSolution,
    lqr,
    lqr_factorize,
)
from diffplan.functional.returns import generalized_advantages, lambda_returns
from diffplan.functional.riccati import riccati_factorize
from diffplan.functional.top_k import hard_top_k

__all__ = [
    "BlockTridiagonal",
    "BlockTridiagonalFactor",
    "BoxQPSolution",
    "ChainFactor",
    "ChainRightHandSide",
    "ChainSolution",
    "ChainSystem",
    "IncrementalLQR",
    "LQRFactor",
    "LQRProblem",
    "LQRSolution",
    "LimitedLaw",
    "batched_jacobian",
    "box_qp",
    "colour_noise",
    "fold",
    "generalized_advantages",
    "hard_top_k",
    "lambda_returns",
    "limited_rollout",
    "limited_sweep",
    "linearize_dynamics",
    "lml",
    "lqr",
    "lqr_factorize",
    "normal_equations_factorize",
    "project_ball",
    "project_ball_within",
    "project_intersection",
    "project_simplex",
    "riccati_factorize",
    "rollout",
    "standard_normal",
    "uniform",
]

check_public(globals(), __all__)
