"""Settings of stage (a): planners compared on one frozen model of sparse reach.

The numbers are those of one recipe, fixed before the planners were compared; the
planners' own settings are in `comparison_planners`.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from diffplan._checks import require_at_least, require_known, require_positive
from diffplan._runs.settings import Settings
from diffplan.models.rssm import RSSM
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.offline import OfflineConfig
from reproductions.latco.comparison_planners import (
    CROSS_ENTROPY,
    CROSS_ENTROPY_COLOURED,
    DESCENT,
    DESCENT_MANY,
    DUAL_DESCENT,
    FIRST_ORDER,
    GAUSS_NEWTON,
    GRAD_MPC,
    IMAGES,
    LATCO,
    LATCO_DUALS,
    LATCO_NATIVE,
    NO_CONSTRAINTS,
    NO_CONSTRAINTS_PAPER,
    NO_RELAXATION,
    PATH_INTEGRAL,
    REGULATOR,
    STILL,
    UNIFORM,
)


@dataclass(frozen=True)
class DataConfig:
    """Episodes that the model is trained on; no planner collects any.

    Of ten episodes two take independent uniform actions, four hold random directions,
    four follow Meta-World's scripted expert with noise. Every third expert episode
    begins with a random direction held for a while, at every level of noise alike.

    Attributes:
        task: A state task, see `diffplan.envs.make`.
        episodes: For training.
        validation_episodes: More of the same mix, never trained on.
        held_sigma: Noise around held directions.
        expert_noise: Noises of the expert, in turn.
        detour: Fewest steps of a random start, and the number that it stays below.
    """

    task: str = "metaworld/reach"
    episodes: int = 400
    validation_episodes: int = 40
    held_sigma: float = 0.3
    expert_noise: tuple[float, ...] = (0.3, 0.6)
    detour: tuple[int, int] = (20, 80)

    def __post_init__(self) -> None:
        require_at_least("episodes", self.episodes, 5)
        require_at_least("validation_episodes", self.validation_episodes, 5)


@dataclass(frozen=True)
class Setup:
    """How the work of a comparison sees the task, and what it runs on.

    Attributes:
        render_preset: How images are drawn, see `OnlineRun`; None: state vectors.
        device: Of models, cpu, cuda, or auto: CUDA where there is one.
        num_workers: Processes that play the offline episodes, which do not depend on
            it; 0 stays in this one.
    """

    render_preset: Literal["faithful", "fast"] | None = None
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    num_workers: int = 0

    @property
    def seen(self) -> dict[str, Any]:
        """The keywords of `diffplan.envs.make`."""
        if self.render_preset is None:
            return {}
        return {"observation": "pixels", "render_preset": self.render_preset}


STATE_VECTORS = Setup()


def small_rssm(
    observations: Tensor,
    action_dim: int,
    *,
    state_size: int = 30,
    belief_size: int = 64,
    hidden_size: int = 128,
    reward_layers: int = 3,
    free_nats: float = 0.3,
    kl_scale: float = 1.0,
    error_weight: float = 200.0,
    minimum_std: float = 0.05,
) -> RSSM:
    """Return an untrained small RSSM (168,971 parameters for reach).

    Its weights are drawn from torch's global generator.

    Args:
        observations: `[N, D]`, which set the scale of its observations.
        action_dim: A.
        state_size: Stochastic numbers; LatCo's 30.
        belief_size: Deterministic numbers; LatCo has 200.
        hidden_size: Width of every dense layer; LatCo has 200 and 400.
        reward_layers: Hidden layers of the reward head.
        free_nats: Divergence that costs nothing, on the mean. LatCo's 3 would leave
            the prior of this small task untrained.
        kl_scale: Weight of the divergence.
        error_weight: Of squared errors of observation (normalised) and reward.
        minimum_std: Components of the observation that move less, metres: only
            centred. They are the puck, which is hit by accident; scaled to unit
            variance such accidents would be 50 standard deviations.
    """
    model = RSSM(
        observations.shape[1:],
        action_dim,
        belief_size=belief_size,
        state_size=state_size,
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        vector_layers=1,
        vector_hidden=hidden_size,
        reward_layers=reward_layers,
        reward_hidden=hidden_size,
        free_nats=free_nats,
        kl_scale=kl_scale,
        # The model's terms are ½ error².
        observation_scale=2 * error_weight,
        reward_scale=2 * error_weight,
    )
    model.fit_normalizer(observations, minimum_std)
    return model


MODEL = Settings.full(small_rssm)
MODEL_NO_BELIEF = MODEL.replaced(belief_size=0)


def _training() -> OfflineConfig:
    return OfflineConfig(
        updates=6933,
        batch_size=32,
        sequence_length=32,
        initial_fraction=0.15,
        hold=0.6,
        final=0.02,
        updates_per_round=200,
        checkpoint_every=2,
        optimizer=OptimizerConfig(learning_rate=1e-3),
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """How planners are compared: the same starts for all of them and all seeds.

    Attributes:
        starts: Episodes per planner.
        seed: Of the starts.
        horizon: Actions of a plan.
        execute: Actions of a plan that are executed before the next one.
        far: Starts at least this far away, metres, are counted apart too; one plan
            moves the hand by 0.27 m along each axis, at most.
        trace_starts: Starts whose LatCo plans are followed through the iterations.
    """

    starts: int = 30
    seed: int = 0
    horizon: int = 30
    execute: int = 30
    far: float = 0.35
    trace_starts: int = 10

    def __post_init__(self) -> None:
        require_positive("starts", self.starts)
        require_at_least("trace_starts", self.trace_starts, 1)


@dataclass(frozen=True)
class HeadsConfig:
    """Reward heads that learn on a frozen model, for planners that doubt.

    Attributes:
        count: How many.
        updates: Of each.
        batch_size: States of an update.
        learning_rate: At the start.
    """

    count: int = 5
    updates: int = 4000
    batch_size: int = 1024
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        require_at_least("count", self.count, 2)
        require_at_least("updates", self.updates, 1)


FOLLOWED = ("latco", "latco_no_relaxation", "gd_one")
"""Planners whose plans are shown as they improve."""

ABLATIONS = (
    "latco",
    "latco_no_relaxation",
    "latco_no_constraints",
    "latco_no_constraints_paper",
    "latco_no_belief",
    "latco_duals",
    "latco_least",
    "latco_doubt",
    "latco_first_order",
    "image_collocation",
    "ilqr",
    "shooting_gn",
    "dual_gd",
)
"""Planners of Table 3, and the paper's baselines beside those of stage (a)."""


@dataclass(frozen=True)
class ComparisonConfig:
    """Everything that stage (a) depends on; see the fields' own classes.

    Attributes:
        planners: Which are compared; the names of the fields that follow them.
        setup: State vectors or images, and the device.
        latco_native: Shows that both engines are one planner; in one training seed.
        latco_duals: By the method of multipliers; only where `planners` names it.
        latco_least: By the least of several reward heads; likewise.
        latco_doubt: By their mean less their standard deviation; likewise.
        heads: These heads.
        latco_no_belief: Plans with `model_no_belief`, in Table 3 alone.
        model_no_belief: Without a deterministic path, fitted to the same data.
    """

    planners: tuple[str, ...] = (
        "latco",
        "latco_native",
        "gd_many",
        "gd_one",
        "cem_coloured",
        "cem",
        "mppi",
        "grad_mpc",
        "random",
        "still",
    )
    setup: Setup = field(default_factory=Setup)
    data: DataConfig = field(default_factory=DataConfig)
    model: Settings = MODEL
    training: OfflineConfig = field(default_factory=_training)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    latco: Settings = LATCO
    latco_native: Settings = LATCO_NATIVE
    latco_duals: Settings = LATCO_DUALS
    latco_least: Settings = LATCO_NATIVE
    latco_doubt: Settings = LATCO_NATIVE
    heads: HeadsConfig = field(default_factory=HeadsConfig)
    gd_many: Settings = DESCENT_MANY
    gd_one: Settings = DESCENT
    cem_coloured: Settings = CROSS_ENTROPY_COLOURED
    cem: Settings = CROSS_ENTROPY
    mppi: Settings = PATH_INTEGRAL
    grad_mpc: Settings = GRAD_MPC
    random: Settings = UNIFORM
    still: Settings = STILL
    latco_no_relaxation: Settings = NO_RELAXATION
    latco_no_constraints: Settings = NO_CONSTRAINTS
    latco_no_constraints_paper: Settings = NO_CONSTRAINTS_PAPER
    latco_no_belief: Settings = LATCO_NATIVE
    model_no_belief: Settings = MODEL_NO_BELIEF
    latco_first_order: Settings = FIRST_ORDER
    image_collocation: Settings = IMAGES
    ilqr: Settings = REGULATOR
    shooting_gn: Settings = GAUSS_NEWTON
    dual_gd: Settings = DUAL_DESCENT

    def __post_init__(self) -> None:
        for name in self.planners:
            self.settings(name)

    def own_setup(self) -> dict[str, Setup]:
        """Return the setup as work takes it: not at all where it is stage (a)'s."""
        # Whose published units know of no such setting.
        return {} if self.setup == STATE_VECTORS else {"setup": self.setup}

    def settings(self, planner: str) -> Settings:
        """Return the settings of the planner with that name.

        Raises:
            UnknownNameError: lists close matches.
        """
        known = [
            name
            for name, value in vars(self).items()
            if isinstance(value, Settings) and not name.startswith("model")
        ]
        found: Settings = getattr(self, require_known("planners", planner, known))
        return found

    @classmethod
    def smoke(cls) -> "ComparisonConfig":
        """Return settings so small that every unit takes seconds; no result counts.

        Most of these seconds are the start of a process: of planners that other stages
        run too, or that differ in a number, one is here.
        """
        few = CROSS_ENTROPY.replaced(num_samples=20, num_elites=4, iterations=2)
        model = MODEL.replaced(state_size=8, belief_size=16, hidden_size=32)
        return cls(
            planners=("latco", "latco_native", "gd_many", "cem", "random"),
            data=DataConfig(episodes=5, validation_episodes=5),
            model=model,
            model_no_belief=model.replaced(belief_size=0),
            training=replace(
                _training(),
                updates=40,
                batch_size=8,
                sequence_length=16,
                updates_per_round=10,
                checkpoint_every=1,
            ),
            evaluation=EvaluationConfig(starts=2, trace_starts=1),
            latco=LATCO.replaced(iterations=5),
            latco_native=LATCO.replaced(iterations=5, engine="native"),
            latco_duals=LATCO_DUALS.replaced(iterations=5),
            latco_least=LATCO_NATIVE.replaced(iterations=5),
            latco_doubt=LATCO_NATIVE.replaced(iterations=5),
            heads=HeadsConfig(count=2, updates=5),
            gd_many=DESCENT.replaced(iterations=3, num_starts=4),
            gd_one=DESCENT.replaced(iterations=5),
            cem_coloured=few.replaced(noise_exponent=2.0),
            cem=few,
            mppi=PATH_INTEGRAL.replaced(num_samples=20, iterations=2),
            grad_mpc=GRAD_MPC.replaced(num_candidates=5, iterations=3),
            latco_no_relaxation=NO_RELAXATION.replaced(iterations=5),
            latco_no_constraints=NO_CONSTRAINTS.replaced(iterations=5),
            latco_no_constraints_paper=NO_CONSTRAINTS_PAPER.replaced(iterations=5),
            latco_no_belief=LATCO_NATIVE.replaced(iterations=5),
            latco_first_order=FIRST_ORDER.replaced(iterations=7),
            image_collocation=IMAGES.replaced(iterations=3),
            ilqr=REGULATOR.replaced(iterations=2),
            shooting_gn=GAUSS_NEWTON.replaced(iterations=2),
            dual_gd=DUAL_DESCENT.replaced(iterations=7),
        )

    @classmethod
    def ablations(cls) -> "ComparisonConfig":
        """Return settings of Table 3: LatCo without one part at a time, and baselines.

        LatCo is driven by the native engine as its ablations are; data and model are
        those of the comparison.
        """
        return cls(planners=ABLATIONS, latco=LATCO_NATIVE)

    @classmethod
    def smoke_ablations(cls) -> "ComparisonConfig":
        """Return the same so small that no result counts."""
        others = ("latco_no_belief", "latco_duals", "latco_least", "latco_first_order")
        planners = ("latco", *others, "image_collocation", "ilqr", "dual_gd")
        small = cls.smoke()
        return replace(small, planners=planners, latco=small.latco_native)

    @classmethod
    def followed(cls) -> "ComparisonConfig":
        """Return settings of the planners that figures follow: those of Table 3."""
        return replace(cls.ablations(), planners=FOLLOWED)

    @classmethod
    def smoke_followed(cls) -> "ComparisonConfig":
        """Return the same so small that no result counts."""
        return replace(cls.smoke_ablations(), planners=FOLLOWED)
