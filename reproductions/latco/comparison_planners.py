"""Settings of the planners that stage (a) compares.

No planner is tuned. LatCo has the released settings; the others have those of LatCo's
paper where these fit on a CPU, and say where they are smaller. `counted` is what the
model evaluations of a plan are. Shooting from many
starts has as many as LatCo's wall-clock time per plan allows: the strongest baseline.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffplan.gradients import Detach
from diffplan.planners.base import Planner
from diffplan.planners.collocation import LatCo
from diffplan.planners.gradient import GradMPC, ShootingGD
from diffplan.planners.sampling.cem import CEM
from diffplan.planners.sampling.mppi import MPPI


@dataclass(frozen=True)
class LatCoSettings:
    """LatCo as released: nothing but the iterations is ours to choose.

    Attributes:
        engine: "theseus", whose Levenberg-Marquardt drives it as in the paper, or
            "native", our own of the same numbers.
    """

    counted: ClassVar[str] = "Jacobians"
    iterations: int = 200
    engine: Literal["theseus", "native"] = "theseus"

    def build(self, horizon: int) -> Planner:
        """Return the planner."""
        return LatCo.released(
            horizon, iterations=self.iterations, engine=self.engine, gradient=Detach()
        )

    def describe(self) -> str:
        """Return the settings in words."""
        return f"{self.iterations} iterations, ε 1e-4, as released; {self.engine}"

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return self.iterations * horizon


@dataclass(frozen=True)
class CEMSettings:
    """The cross-entropy method (paper on Meta-World: 10,000 samples, 100 refits)."""

    counted: ClassVar[str] = "steps"
    num_samples: int = 1000
    num_elites: int = 100
    iterations: int = 10
    noise_exponent: float = 0.0
    chunk_size: int = 32

    def build(self, horizon: int) -> Planner:
        """Return the planner."""
        return CEM(
            horizon,
            num_samples=self.num_samples,
            num_elites=self.num_elites,
            iterations=self.iterations,
            noise_exponent=self.noise_exponent,
            chunk_size=self.chunk_size,
        )

    def describe(self) -> str:
        """Return the settings in words."""
        colour = f", noise β = {self.noise_exponent:g}" if self.noise_exponent else ""
        return (
            f"{self.num_samples} samples × {self.iterations} refits, "
            f"{self.num_elites} elites{colour}"
        )

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return self.num_samples * self.iterations * horizon


@dataclass(frozen=True)
class MPPISettings:
    """MPPI (paper: 1,000 samples, γ = 10; released: 10,000 × 100 on Meta-World)."""

    counted: ClassVar[str] = "steps"
    num_samples: int = 1000
    iterations: int = 10
    temperature: float = 0.1
    chunk_size: int = 32

    def build(self, horizon: int) -> Planner:
        """Return the planner."""
        return MPPI(
            horizon,
            num_samples=self.num_samples,
            iterations=self.iterations,
            temperature=self.temperature,
            chunk_size=self.chunk_size,
            gradient=Detach(),
        )

    def describe(self) -> str:
        """Return the settings in words."""
        return (
            f"{self.num_samples} samples × {self.iterations} refits, "
            f"γ = {1 / self.temperature:g}"
        )

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return self.num_samples * self.iterations * horizon


@dataclass(frozen=True)
class DescentSettings:
    """Shooting with gradient descent, from one start (paper) or from many."""

    counted: ClassVar[str] = "steps with gradient"
    iterations: int = 500
    num_starts: int = 1
    step_size: float = 0.05

    def build(self, horizon: int) -> Planner:
        """Return the planner."""
        return ShootingGD(
            horizon,
            iterations=self.iterations,
            num_starts=self.num_starts,
            step_size=self.step_size,
            keep_best=False,
            gradient=Detach(),
        )

    def describe(self) -> str:
        """Return the settings in words."""
        starts = "1 start" if self.num_starts == 1 else f"{self.num_starts} starts"
        return f"{starts} × {self.iterations} steps, Adam {self.step_size:g}"

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return self.num_starts * self.iterations * horizon


@dataclass(frozen=True)
class GradMPCSettings:
    """Grad-MPC (paper: 1,000 candidates, 40 steps); as many as LatCo's time allows."""

    counted: ClassVar[str] = "steps with gradient"
    num_candidates: int = 120
    iterations: int = 40
    step_size: float = 0.1

    def build(self, horizon: int) -> Planner:
        """Return the planner."""
        return GradMPC(
            horizon,
            num_starts=self.num_candidates,
            iterations=self.iterations,
            step_size=self.step_size,
            keep_best=False,
            gradient=Detach(),
        )

    def describe(self) -> str:
        """Return the settings in words."""
        return (
            f"{self.num_candidates} candidates × {self.iterations} steps, "
            f"SGD {self.step_size:g}"
        )

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return self.num_candidates * self.iterations * horizon


@dataclass(frozen=True)
class RandomSettings:
    """Uniform actions: what success costs nothing."""

    counted: ClassVar[str] = "steps"

    def describe(self) -> str:
        """Return the settings in words."""
        return "uniform actions"

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return 0


@dataclass(frozen=True)
class StillSettings:
    """No action at all: what the task gives away."""

    counted: ClassVar[str] = "steps"

    def describe(self) -> str:
        """Return the settings in words."""
        return "zero actions"

    def evaluations(self, horizon: int) -> int:
        """Return how often one plan evaluates the model."""
        return 0


PlannerSettings = (
    LatCoSettings
    | CEMSettings
    | MPPISettings
    | DescentSettings
    | GradMPCSettings
    | RandomSettings
    | StillSettings
)
