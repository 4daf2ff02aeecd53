"""The planners that stage (a) compares, as settings of the library's constructors.

No planner is tuned. LatCo has the released settings; the others have those of LatCo's
paper where these fit on a CPU, and say where they are smaller. Shooting from many
starts has as many as LatCo's wall-clock time per plan allows: the strongest baseline.
"""

import math
from functools import partial

from diffplan._runs.settings import Settings
from diffplan.agents import UniformAgent
from diffplan.gradients import Detach
from diffplan.planners.collocation import (
    FirstOrderLatCo,
    FixedMultiplier,
    GaussianLatCo,
    ImageCollocation,
    LatCo,
    MethodOfMultipliers,
)
from diffplan.planners.gradient import GradMPC, ShootingGD
from diffplan.planners.sampling.cem import CEM
from diffplan.planners.sampling.mppi import MPPI
from diffplan.planners.second_order import ILQR, ShootingGN
from reproductions.common.idle import still
from reproductions.latco.dual_descent import DualDescent

# As released: nothing but iterations and engine is ours to choose.
LATCO = Settings(
    partial(LatCo.released, gradient=Detach()), iterations=200, engine="theseus"
)

LATCO_NATIVE = LATCO.replaced(engine="native")

# Table 3. The release raises λ alone, and its rule lets it fall by a tenth a step.
NO_RELAXATION = LATCO_NATIVE.replaced(initial_multipliers=(1e8, 1.0))

# The release's 8 and 16 scale residuals: weights 64 and 256. The paper prints 8 and 16.
NO_CONSTRAINTS = Settings(
    partial(LatCo.released, multiplier_rule=FixedMultiplier(), gradient=Detach()),
    iterations=200,
    engine="native",
    initial_multipliers=(64.0, 256.0),
)

NO_CONSTRAINTS_PAPER = NO_CONSTRAINTS.replaced(initial_multipliers=(8.0, 16.0))

FIRST_ORDER = Settings(
    partial(FirstOrderLatCo.released, gradient=Detach()),
    iterations=5000,
    step_size=0.05,
)

# As released, but for the iterations: 5,000 there.
IMAGES = Settings(
    partial(ImageCollocation.released, gradient=Detach()),
    iterations=1000,
    step_size=0.02,
)

# Released: 200 iterations.
REGULATOR = Settings(partial(ILQR, gradient=Detach()), iterations=200)

# Released: 100 steps of a tenth, damping 1e-2; the line search here is the library's.
GAUSS_NEWTON = Settings(
    partial(ShootingGN, gradient=Detach()), iterations=100, damping=1e-2
)

DUAL_DESCENT = Settings(
    partial(DualDescent.paper, gradient=Detach()), iterations=500, step_size=0.05
)


def latco_duals(
    horizon: int, *, iterations: int = 100, initial_penalty: float = 1.0
) -> LatCo:
    """Return LatCo by the method of multipliers, which is not in its paper.

    Args:
        horizon: T, number of planned actions.
        iterations: Gauss-Newton steps that are tried.
        initial_penalty: Of dynamics and action limits.
    """
    return LatCo.released(
        horizon,
        iterations=iterations,
        multiplier_rule=MethodOfMultipliers(),
        initial_multipliers=(initial_penalty, initial_penalty),
        gradient=Detach(),
    )


LATCO_DUALS = Settings.full(latco_duals)

# Paper on Meta-World: 10,000 samples, 100 refits.
CROSS_ENTROPY = Settings(
    CEM,
    num_samples=1000,
    num_elites=100,
    iterations=10,
    noise_exponent=0.0,
    chunk_size=32,
)

CROSS_ENTROPY_COLOURED = CROSS_ENTROPY.replaced(noise_exponent=2.0)

# Paper: 1,000 samples, γ = 10; released: 10,000 × 100 on Meta-World.
PATH_INTEGRAL = Settings(
    partial(MPPI, gradient=Detach()),
    num_samples=1000,
    iterations=10,
    temperature=0.1,
    chunk_size=32,
)

# From one start, as in the paper, or from many.
DESCENT = Settings(
    partial(ShootingGD, keep_best=False, gradient=Detach()),
    iterations=500,
    num_starts=1,
    step_size=0.05,
)

DESCENT_MANY = DESCENT.replaced(iterations=300, num_starts=32)


def grad_mpc(
    horizon: int,
    *,
    num_candidates: int = 120,
    iterations: int = 40,
    step_size: float = 0.1,
) -> GradMPC:
    """Return Grad-MPC (paper: 1,000 candidates); as many as LatCo's time allows.

    Args:
        horizon: T, number of planned actions.
        num_candidates: `num_starts` of the planner, as records of results call it.
        iterations: Gradient steps.
        step_size: Of each.
    """
    return GradMPC(
        horizon,
        num_starts=num_candidates,
        iterations=iterations,
        step_size=step_size,
        keep_best=False,
        gradient=Detach(),
    )


GRAD_MPC = Settings.full(grad_mpc)


def gaussian_latco(
    horizon: int, *, iterations: int = 50, num_samples: int = 50, num_starts: int = 1
) -> GaussianLatCo:
    """Return Gaussian LatCo; as of LatCo, the plan is executed whatever it costs.

    Args:
        horizon: T, number of planned actions.
        iterations: Of Gauss-Newton.
        num_samples: Of the moments.
        num_starts: Random initial plans; the one of least expected cost is kept.
    """
    return GaussianLatCo(
        horizon,
        iterations=iterations,
        num_samples=num_samples,
        num_starts=num_starts,
        fall_back=False,
        gradient=Detach(),
    )


GAUSSIAN_LATCO = Settings.full(gaussian_latco)


UNIFORM = Settings(UniformAgent)
"""Random actions: what success costs nothing."""

STILL = Settings(still)

COUNTED = {
    LatCo: ("Jacobians", ("iterations",)),
    gaussian_latco: ("Jacobians", ("iterations",)),
    latco_duals: ("Jacobians", ("iterations",)),
    CEM: ("steps", ("num_samples", "iterations")),
    MPPI: ("steps", ("num_samples", "iterations")),
    ShootingGD: ("steps with gradient", ("num_starts", "iterations")),
    grad_mpc: ("steps with gradient", ("num_candidates", "iterations")),
    FirstOrderLatCo: ("steps with gradient", ("iterations",)),
    ImageCollocation: ("steps with gradient", ("iterations",)),
    DualDescent: ("steps with gradient", ("iterations",)),
    ILQR: ("Jacobians at most", ("iterations",)),
    ShootingGN: ("Jacobians at most", ("iterations",)),
}
"""What a planner evaluates of the model, and whose product it is for each action."""


def plans(settings: Settings) -> bool:
    """Return whether these are settings of a planner, and not of an agent."""
    return settings.kind in COUNTED


def evaluations(settings: Settings, horizon: int) -> int:
    """Return how often one plan evaluates the model."""
    if not plans(settings):
        return 0
    _, factors = COUNTED[settings.kind]
    return horizon * math.prod(settings[name] for name in factors)


def counted(settings: Settings, horizon: int) -> str:
    """Return how often one plan evaluates what of the model, in words."""
    if not plans(settings):
        return "0"
    return f"{evaluations(settings, horizon):,} {COUNTED[settings.kind][0]}"


def words(settings: Settings) -> str:
    """Return the settings in words."""
    kind, its = settings.kind, settings
    if kind is LatCo:
        start = its.get("initial_multipliers")
        weights = f"λ, ν = {start[0]:g}, {start[1]:g}; " if start else ""
        return (
            f"{weights}{its.iterations} iterations, ε 1e-4, as released; {its.engine}"
        )
    if kind in (FirstOrderLatCo, ImageCollocation, DualDescent):
        return f"{its.iterations} steps, Adam {its.step_size:g}"
    if kind in (ILQR, ShootingGN):
        return f"{its.iterations} iterations at most"
    if kind is latco_duals:
        penalty = f"penalty {its.initial_penalty:g} at the start"
        return f"{its.iterations} iterations, method of multipliers, {penalty}"
    if kind is CEM:
        exponent = its.noise_exponent
        colour = f", noise β = {exponent:g}" if exponent else ""
        return (
            f"{its.num_samples} samples × {its.iterations} refits, "
            f"{its.num_elites} elites{colour}"
        )
    if kind is MPPI:
        gamma = 1 / its.temperature
        return f"{its.num_samples} samples × {its.iterations} refits, γ = {gamma:g}"
    if kind is ShootingGD:
        starts = "1 start" if its.num_starts == 1 else f"{its.num_starts} starts"
        return f"{starts} × {its.iterations} steps, Adam {its.step_size:g}"
    if kind is grad_mpc:
        steps = f"{its.iterations} steps, SGD {its.step_size:g}"
        return f"{its.num_candidates} candidates × {steps}"
    return "uniform actions" if kind is UniformAgent else "zero actions"
