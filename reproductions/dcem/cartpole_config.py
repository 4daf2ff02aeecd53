"""Settings of stage (b), cartpole with a learned embedding: the paper's by default."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffplan._checks import require_at_least
from diffplan.errors import ArgumentError
from diffplan.planners import CEM, DCEM
from reproductions.dcem.ensemble import OptimizerSettings
from reproductions.dcem.training import require_schedule

HORIZON = 20
FORCE = 100.0
"""Newtons; the actions are -FORCE … FORCE."""


@dataclass(frozen=True)
class ExpertSettings:
    """CEM in the space of actions.

    Attributes:
        num_samples: Candidates per refit.
        num_elites: Kept.
        iterations: Refits.
        initial_std: Newtons.
        repeats: Independent plans of each validation state.
    """

    num_samples: int = 100
    num_elites: int = 10
    iterations: int = 30
    initial_std: float = 100.0
    repeats: int = 20

    def build(self) -> CEM:
        """Return the planner."""
        return CEM(
            HORIZON,
            num_samples=self.num_samples,
            num_elites=self.num_elites,
            iterations=self.iterations,
            initial_std=self.initial_std,
            epsilon=0.0,
        )


@dataclass(frozen=True)
class EmbeddingTraining:
    """Training of the decoders of one latent size and temperature.

    Attributes:
        updates: Of the decoder; each sees one initial state.
        hidden: Width of the decoder's three hidden layers.
        num_samples: Candidates per refit, in the latent space.
        num_elites: Sum of the choices.
        iterations: Refits.
        initial_std: Spread of the first candidates; the latent space is [-1, 1]^d.
        validation_states: Fixed initial states.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints, a multiple of the above.
        compile: Compile rollouts with `torch.compile`; needs a C++ compiler.
        optimizer: Adam, clipping and the falling learning rate.
    """

    updates: int = 100_000
    hidden: int = 256
    num_samples: int = 100
    num_elites: int = 10
    iterations: int = 10
    initial_std: float = 0.5
    validation_states: int = 100
    validate_every: int = 100
    checkpoint_every: int = 500
    compile: bool = True
    optimizer: OptimizerSettings = field(
        default_factory=lambda: OptimizerSettings(learning_rate=5e-4)
    )

    def __post_init__(self) -> None:
        for name in ("hidden", "validation_states"):
            require_at_least(name, getattr(self, name), 1)
        require_schedule(self.updates, self.validate_every, self.checkpoint_every)

    def sizes(self, latent: int) -> tuple[int, ...]:
        """Layer sizes of the decoder."""
        return (latent, self.hidden, self.hidden, self.hidden, HORIZON)

    def search(self, temperature: float) -> DCEM | CEM:
        """Return what searches the latent space; temperature 0 is plain CEM."""
        common: dict[str, Any] = {
            "num_samples": self.num_samples,
            "num_elites": self.num_elites,
            "iterations": self.iterations,
        }
        if temperature == 0:
            return CEM(1, initial_std=self.initial_std, epsilon=0.0, **common)
        return DCEM(1, initial_std=self.initial_std, temperature=temperature, **common)


@dataclass(frozen=True)
class EmbeddingEvaluation:
    """What is measured on the trained decoders.

    Attributes:
        fresh_states: Initial states that played no part in training or in choosing.
        surfaces: Initial states whose learned cost surface is drawn (latent size 2).
        grid: Points per axis of a surface.
    """

    fresh_states: int = 1000
    surfaces: int = 4
    grid: int = 100


@dataclass(frozen=True)
class CartpoleConfig:
    """Settings of stage (b).

    Attributes:
        latents: Sizes of the latent space.
        temperatures: Of DCEM; 0 is CEM.
        training: Of each cell, a latent size with a temperature.
        expert: CEM in the space of actions.
        evaluation: Of the trained decoders.
    """

    latents: tuple[int, ...] = (2, 8, 16)
    temperatures: tuple[float, ...] = (1.0, 0.1, 0.0)
    training: EmbeddingTraining = field(default_factory=EmbeddingTraining)
    expert: ExpertSettings = field(default_factory=ExpertSettings)
    evaluation: EmbeddingEvaluation = field(default_factory=EmbeddingEvaluation)

    def __post_init__(self) -> None:
        _check("latents", self.latents, 1)
        _check("temperatures", self.temperatures, 0)

    @classmethod
    def share(cls) -> "CartpoleConfig":
        """Return the part that a CPU can do: a fifth of two cells' updates."""
        config = cls()
        training = replace(config.training, updates=20_000)
        return replace(config, latents=(2, 8), temperatures=(1.0,), training=training)

    @classmethod
    def smoke(cls) -> "CartpoleConfig":
        """Return settings of seconds; the numbers mean nothing."""
        config = cls()
        training = replace(
            config.training,
            updates=4,
            hidden=8,
            num_samples=10,
            num_elites=2,
            iterations=2,
            validation_states=4,
            validate_every=2,
            checkpoint_every=2,
            compile=False,
        )
        return replace(
            config,
            latents=(2,),
            temperatures=(1.0, 0.0),
            training=training,
            expert=ExpertSettings(
                num_samples=10, num_elites=2, iterations=2, repeats=2
            ),
            evaluation=EmbeddingEvaluation(fresh_states=4, surfaces=1, grid=5),
        )


def _check(name: str, values: Sequence[float], least: float) -> None:
    if not values or min(values) < least:
        raise ArgumentError(
            f"{name}: expected numbers of at least {least}, got {values}"
        )
