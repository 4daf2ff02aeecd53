"""Settings of the Lottery: data, a small model, and the planners that act with it."""

from dataclasses import dataclass, field, replace

from torch import Tensor

from diffplan._checks import require_at_least, require_known
from diffplan._runs.settings import Settings
from diffplan.models.rssm import RSSM
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.offline import OfflineConfig
from reproductions.latco.comparison_config import EvaluationConfig
from reproductions.latco.comparison_planners import (
    CROSS_ENTROPY,
    DESCENT,
    GAUSSIAN_LATCO,
    LATCO_NATIVE,
    PATH_INTEGRAL,
    UNIFORM,
)

LATCO = LATCO_NATIVE.replaced(iterations=GAUSSIAN_LATCO.iterations)
GAUSSIAN_MANY, LATCO_MANY = (s.replaced(num_starts=8) for s in (GAUSSIAN_LATCO, LATCO))


def lottery_rssm(
    observations: Tensor,
    *,
    state_size: int = 8,
    belief_size: int = 32,
    hidden_size: int = 64,
    free_nats: float = 0.3,
    observation_weight: float = 100.0,
    reward_weight: float = 10.0,
) -> RSSM:
    """Return an untrained small RSSM; its weights come from torch's global generator.

    Args:
        observations: `[N, 6]`, which set the scale.
        state_size: Stochastic numbers.
        belief_size: Deterministic numbers.
        hidden_size: Width of every dense layer.
        free_nats: Divergence that costs nothing, on the mean.
        observation_weight: Of squared errors of normalised observations.
        reward_weight: Of squared errors of the reward, which is up to 40.
    """
    model = RSSM(
        observations.shape[1:],
        2,
        belief_size=belief_size,
        state_size=state_size,
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        vector_layers=1,
        vector_hidden=hidden_size,
        reward_layers=2,
        reward_hidden=hidden_size,
        free_nats=free_nats,
        observation_scale=2 * observation_weight,  # the model's terms are ½ error²
        reward_scale=2 * reward_weight,
    )
    model.fit_normalizer(observations)
    return model


def _training() -> OfflineConfig:
    return OfflineConfig(
        updates=3000,
        batch_size=50,
        sequence_length=12,
        initial_fraction=0.5,
        updates_per_round=100,
        checkpoint_every=2,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )


def _evaluation() -> EvaluationConfig:
    return EvaluationConfig(starts=100, horizon=12, execute=12)


@dataclass(frozen=True)
class LotteryConfig:
    """Everything that the experiment depends on.

    Attributes:
        planners: Which are compared; the names of the fields that follow `evaluation`.
            LatCo and Gaussian LatCo plan from one random start, and from eight: these
            were added after one had been seen to fail with the model of seed 0.
        task: Whose pay-offs.
        steps: Decisions of an episode, in data and evaluation.
        episodes: For training; half of them make for each goal.
        validation_episodes: More of them, never trained on.
        noise: Of the scripted actions, and of how long they wander before.
        wander: At most so many steps at first, to a random place.
        rollouts: Sampled for each validation start, to see what risk the model knows.
        evaluation: One plan of the whole episode, executed to its end.
    """

    planners: tuple[str, ...] = (
        "gaussian",
        "gaussian_many",
        "latco",
        "latco_many",
        "cem",
        "mppi",
        "gd",
        "random",
    )
    task: str = "lottery/paper"
    steps: int = 12
    episodes: int = 600
    validation_episodes: int = 100
    noise: float = 0.2
    wander: int = 4
    rollouts: int = 100
    model: Settings = field(default_factory=lambda: Settings.full(lottery_rssm))
    training: OfflineConfig = field(default_factory=_training)
    evaluation: EvaluationConfig = field(default_factory=_evaluation)
    gaussian: Settings = GAUSSIAN_LATCO
    gaussian_many: Settings = GAUSSIAN_MANY
    latco: Settings = LATCO
    latco_many: Settings = LATCO_MANY
    cem: Settings = CROSS_ENTROPY
    mppi: Settings = PATH_INTEGRAL
    gd: Settings = DESCENT
    random: Settings = UNIFORM

    def __post_init__(self) -> None:
        require_at_least("episodes", self.episodes, 10)
        require_at_least("validation_episodes", self.validation_episodes, 4)

    def settings(self, planner: str) -> Settings:
        """Return the settings of the planner with that name."""
        known = [k for k, v in vars(self).items() if isinstance(v, Settings)]
        known.remove("model")
        found: Settings = getattr(self, require_known("planners", planner, known))
        return found

    @classmethod
    def smoke(cls) -> "LotteryConfig":
        """Return settings so small that every unit takes seconds; no result counts."""
        few = GAUSSIAN_LATCO.replaced(iterations=2, num_samples=4)
        return cls(
            planners=("gaussian", "latco", "cem", "random"),
            episodes=10,
            validation_episodes=4,
            rollouts=4,
            training=replace(_training(), updates=4, updates_per_round=2),
            evaluation=replace(_evaluation(), starts=2),
            gaussian=few,
            gaussian_many=few.replaced(num_starts=2),
            latco=LATCO.replaced(iterations=2),
            latco_many=LATCO.replaced(iterations=2, num_starts=2),
            cem=CROSS_ENTROPY.replaced(num_samples=10, num_elites=2, iterations=2),
            mppi=PATH_INTEGRAL.replaced(num_samples=10, iterations=2),
            gd=DESCENT.replaced(iterations=2),
        )
