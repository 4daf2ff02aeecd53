"""Settings of the Grad-MPC paper: tasks, models, planners and budgets by preset."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from diffplan._runs import online
from diffplan._runs.online import OnlineRun
from diffplan._runs.settings import Settings
from diffplan.envs.dm_control import GRAD_MPC_ACTION_REPEAT, PLANET_ACTION_REPEAT
from diffplan.gradients import Detach
from diffplan.models.rssm import RSSM
from diffplan.planners.base import Planner
from diffplan.planners.gradient import GradMPC
from diffplan.planners.sampling.cem import CEM
from diffplan.problem import PlanningProblem
from diffplan.stochastic import StochasticProblem
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.online import OnlineConfig

TASKS = (
    "cartpole-swingup",
    "reacher-easy",
    "finger-spin",
    "walker-walk",
    "cheetah-run",
)
"""Of Table 1."""
SPARSE = ("ball_in_cup-catch", "cartpole-swingup_sparse")
"""Of Table 2."""
ACTION_REPEAT = PLANET_ACTION_REPEAT | GRAD_MPC_ACTION_REPEAT
"""Of Table 4; the sparse cartpole, which it leaves out, as the other."""

PLANNERS = ("grad_mpc", "cem")


# Algorithm 1; optimiser and step size are ours to choose.
GRAD_MPC = Settings(
    partial(GradMPC, keep_best=False, gradient=Detach()),
    num_starts=1000,
    iterations=40,
    step_size=0.1,
    optimizer="sgd",
)

# PlaNet's: the mean of the elites after 10 refits.
CROSS_ENTROPY = Settings(
    partial(CEM, gradient=Detach()),
    num_samples=1000,
    num_elites=100,
    iterations=10,
    noise_exponent=0.0,
)

PLANET_MODEL = Settings(
    RSSM,
    state_size=30,
    belief_size=200,
    hidden_size=200,
    embedding_size=1024,
    activation="relu",
    reward_hidden=200,
    vector_hidden=200,
    image_depth=32,
    image_bits=5,
    free_nats=3.0,
    free_nats_on="step",
    kl_scale=1.0,
    observation_scale=2.0,  # the base code's squared errors have no ½
    reward_scale=2.0,
    initialization="torch",
)
"""PlaNet's model in PyTorch, with the numbers of Table 3."""

SMALL_MODEL = PLANET_MODEL.replaced(**online.SMALL_MODEL, reward_scale=20.0)
"""What learns in minutes on a core, from state vectors; as in LatCo's stage (b)."""


SMALL_TRAINING = OnlineConfig(
    rounds=20,
    seed_episodes=5,
    episodes_per_round=2,
    pretrain_updates=200,
    updates_per_round=100,
    batch_size=16,
    sequence_length=30,
    evaluate_every=5,
    evaluation_episodes=4,
    checkpoint_every=2,
    videos=False,
    optimizer=OptimizerConfig(learning_rate=1e-3),
)

PAPER_TRAINING = OnlineConfig(
    rounds=95,  # with the seed episodes 100 episodes
    seed_episodes=5,
    pretrain_updates=0,
    updates_per_round=100,
    batch_size=50,
    sequence_length=49,  # actions: chunks of 50 observations
    replay_capacity=1_000_000,
    evaluate_every=25,
    evaluation_episodes=10,
    optimizer=OptimizerConfig(learning_rate=1e-3, epsilon=1e-4, gradient_clip=1000.0),
)
"""Of Table 3: 100,000 environment steps."""

Run = TypeVar("Run", bound=OnlineRun)


def shortened(run: Run, **more: Any) -> Run:
    """Return a run of seconds that learns nothing, with more settings replaced."""
    return replace(
        run,
        scale_episodes=1,
        model=SMALL_MODEL.replaced(state_size=4, belief_size=8, hidden_size=16),
        training=replace(
            run.training,
            rounds=1,
            seed_episodes=1,
            episodes_per_round=1,
            pretrain_updates=2,
            updates_per_round=2,
            batch_size=4,
            sequence_length=10,
            evaluate_every=1,
            evaluation_episodes=1,
        ),
        **more,
    )


@dataclass(frozen=True)
class PlannerConfig:
    """A planner of online runs.

    Attributes:
        name: grad_mpc or cem.
        horizon: Actions of a plan, of which the first is executed.
        particles: Sampled rollouts that a candidate's return is the mean of, drawn anew
            for each candidate and iteration; 0 rolls out the mean. The paper has 1.
        budget: Its settings.
    """

    name: str = "grad_mpc"
    horizon: int = 12
    particles: int = 0
    budget: Settings = GRAD_MPC

    def build(self) -> Planner:
        """Return the planner."""
        planner: Planner = self.budget.build(self.horizon)
        return planner

    def problem(self) -> Callable[..., PlanningProblem]:
        """Return what poses its problems, see `PlanningAgent`."""
        if self.particles == 0:
            return PlanningProblem
        given = {"num_particles": self.particles, "common_noise": False}
        return partial(StochasticProblem, **given)


@dataclass(frozen=True)
class SampledPlanner(PlannerConfig):
    """A planner of online runs that rolls out samples, by whatever noise.

    Attributes:
        common_noise: Whether all candidates and iterations of a plan see the same
            noise; algorithm 1 draws anew.
    """

    particles: int = 1
    common_noise: bool = False

    def problem(self) -> Callable[..., PlanningProblem]:
        """Return what poses its problems, see `PlanningAgent`."""
        posed = super().problem()
        if self.particles == 0:
            return posed
        return partial(posed, common_noise=self.common_noise)


@dataclass(frozen=True)
class PlanetRun(OnlineRun):
    """One online run: PlaNet with a planner of choice.

    Attributes:
        planner: See `PlannerConfig`.
    """

    model: Settings = PLANET_MODEL
    planner: PlannerConfig = field(default_factory=PlannerConfig)


@dataclass(frozen=True)
class PlanetConfig:
    """PlaNet's agent on several tasks, with Grad-MPC and with CEM.

    Attributes:
        tasks: Of the DeepMind control suite, each a run.
        planners: grad_mpc, cem: each a run.
        grad_mpc: Its settings.
        cem: Its settings.
        run: What all runs share; task, planner and action repeat are filled in.
    """

    tasks: tuple[str, ...] = TASKS
    planners: tuple[str, ...] = PLANNERS
    grad_mpc: Settings = GRAD_MPC
    cem: Settings = CROSS_ENTROPY
    run: PlanetRun = field(default_factory=PlanetRun)

    def of(self, task: str, planner: str) -> PlanetRun:
        """Return the run of a task with a planner."""
        repeat, run = ACTION_REPEAT[task], self.run
        return replace(
            run,
            task=f"dm_control/{task}",
            planner=replace(run.planner, name=planner, budget=getattr(self, planner)),
            training=replace(run.training, action_repeat=repeat),
        )


def small() -> PlanetConfig:
    """Return what learns on two cores: state vectors, small networks and budgets.

    Grad-MPC and CEM have about the same time for a plan (measured: see the page). One
    task, unless others are named.
    """
    return PlanetConfig(
        tasks=TASKS[:1],
        grad_mpc=GRAD_MPC.replaced(num_starts=16, iterations=10, optimizer="adam"),
        cem=CROSS_ENTROPY.replaced(num_samples=160, num_elites=16, iterations=8),
        run=PlanetRun(
            num_envs=2,
            scale_episodes=2,
            posterior="mean",
            device="cpu",
            model=SMALL_MODEL,
            training=SMALL_TRAINING,
        ),
    )


def small_pixels() -> PlanetConfig:
    """Return one task from images, with a small image network."""
    config = small()
    run = config.run
    return replace(
        config,
        tasks=("cartpole-swingup",),
        planners=("grad_mpc",),
        run=replace(
            run,
            observation="pixels",
            scale_episodes=0,
            # Errors are summed over 12,288 numbers of an image, and over one reward.
            model=run.model.replaced(image_depth=8, reward_scale=200.0),
        ),
    )


def gpu_short() -> PlanetConfig:
    """Return what one GPU learns in ten minutes: a third of the paper's protocol.

    Four episodes are collected side by side, with as many updates for each as in the
    paper; the mean of the transition is rolled out.
    """
    config = paper()
    training = replace(
        PAPER_TRAINING,
        rounds=8,
        episodes_per_round=4,
        updates_per_round=400,
        evaluate_every=8,
        evaluation_episodes=4,
        checkpoint_every=1,
        videos=False,
    )
    run = replace(
        config.run,
        num_envs=4,
        render_preset="fast",
        planner=PlannerConfig(),
        training=training,
    )
    return replace(config, tasks=("cartpole-swingup",), planners=("grad_mpc",), run=run)


def tiny() -> PlanetConfig:
    """Return runs of seconds that learn nothing."""
    config = small()
    return replace(
        config,
        tasks=("cartpole-swingup",),
        grad_mpc=config.grad_mpc.replaced(num_starts=2, iterations=2),
        cem=config.cem.replaced(num_samples=8, num_elites=2, iterations=2),
        run=shortened(config.run, planner=PlannerConfig(horizon=3)),
    )


def paper() -> PlanetConfig:
    """Return the paper's protocol: 100,000 environment steps from pixels, Table 3."""
    return PlanetConfig(
        run=PlanetRun(
            observation="pixels",
            render_preset="faithful",
            planner=SampledPlanner(),
            training=PAPER_TRAINING,
        ),
    )
