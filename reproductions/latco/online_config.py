"""Settings of online runs: stage (b) on a CPU, and the paper's own protocol."""

from dataclasses import dataclass, field, replace
from typing import Literal

from diffplan._checks import require_at_least, require_known
from diffplan._runs import online
from diffplan._runs.settings import Settings
from diffplan._runs.tasks import DENSE
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import NegativeReturn, SoftplusReward
from diffplan.planners.base import Planner
from diffplan.problem import Objective
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.online import OnlineConfig
from reproductions.latco.comparison_planners import (
    CROSS_ENTROPY,
    DESCENT,
    GAUSSIAN_LATCO,
    LATCO,
    PATH_INTEGRAL,
    REGULATOR,
)
from reproductions.latco.dense import DenseRSSM

_BUILT = {
    "latco": (LATCO, ("num_starts", "engine")),
    "cem": (CROSS_ENTROPY, ("num_samples", "num_elites", "chunk_size")),
    "mppi": (PATH_INTEGRAL, ("num_samples", "temperature", "chunk_size")),
    "gd": (DESCENT, ("num_starts", "step_size")),
    "gaussian_latco": (GAUSSIAN_LATCO, ("num_starts",)),
    "ilqr": (REGULATOR, ()),
}
"""The planners of stages (a), (d) and (e), and what this stage sets of each."""

PLANNERS = tuple(_BUILT)
METAWORLD = (
    "reach",
    "button-press",
    "window-close",
    "drawer-close",
    "push",
    "thermos",
    "hammer",
)
DM_CONTROL = ("reacher-easy", "cheetah-run", "quadruped-walk")
TASKS = (*METAWORLD, *DM_CONTROL)
HYBRID = ("thermos", "hammer")
"""Tasks that begin with offline data, with an action repeat of 2."""
SHAPED = tuple(f"{DENSE}{task}" for task in METAWORLD if task not in HYBRID)
"""Tasks of Fig. 10, with Meta-World's own reward."""
ALL_TASKS = (*TASKS, *SHAPED)
RUNS = tuple(f"{task}/{planner}" for task in ALL_TASKS for planner in PLANNERS)
CHEETAH = "cheetah-run/latco"
COLLOCATION = ("latco", "gaussian_latco")
SMALL_ITERATIONS = {
    "latco": 100,
    "cem": 10,
    "mppi": 10,
    "gd": 250,
    "gaussian_latco": 50,
    "ilqr": 50,
}
"""On Meta-World from vectors; the DeepMind control suite has cheetah's at most."""

PREFILL_STEPS = 5000
EVALUATION_STEPS = 10_000


PAPER_MODEL = Settings(
    RSSM,
    state_size=30,
    belief_size=200,
    hidden_size=200,
    embedding_size=1024,
    reward_hidden=400,
    vector_hidden=200,
    image_depth=32,
    free_nats=3.0,
    kl_scale=1.0,
    reward_scale=1.0,
)
"""LatCo's model, 5,296,420 parameters from pixels."""


@dataclass(frozen=True)
class PlannerConfig:
    """A planner and its budget; each planner reads the settings that concern it.

    Attributes:
        name: latco, cem, mppi, gd, gaussian_latco or ilqr.
        horizon: Actions of a plan.
        execute: Actions that are executed before the next plan (T_cache).
        iterations: Gauss-Newton steps, refits or gradient steps.
        tolerance: latco: ε of dynamics and action limits.
        engine: latco: native, or theseus (the same iterates on Theseus' solver).
        num_starts: latco, gd, gaussian_latco: plans from different initialisations; the
            best is taken.
        num_samples: cem, mppi: candidates per refit.
        num_elites: cem: candidates that are kept.
        temperature: mppi: divides the cost; γ = 10 of the paper is 0.1.
        step_size: gd: of Adam.
        chunk_size: cem, mppi: candidates rolled out at once, to bound memory.
    """

    name: str = "latco"
    horizon: int = 30
    execute: int = 30
    iterations: int = 200
    tolerance: float = 1e-4
    engine: Literal["native", "theseus"] = "native"
    num_starts: int = 1
    num_samples: int = 10_000
    num_elites: int = 100
    temperature: float = 0.1
    step_size: float = 0.05
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        require_known("planner", self.name, PLANNERS)

    def build(self, model: RSSM) -> tuple[Planner, Objective]:
        """Return the planner and what it optimises on a model.

        LatCo, also Gaussian, minimises softplus(-reward)², the others maximise the sum
        of rewards.
        """
        settings, names = _BUILT[self.name]
        values = {name: getattr(self, name) for name in ("iterations", *names)}
        if self.name == "latco":
            tolerances = ("dynamics_tolerance", "action_tolerance")
            values |= dict.fromkeys(tolerances, self.tolerance)
        kind = SoftplusReward if self.name in COLLOCATION else NegativeReturn
        return settings.build(self.horizon, **values), kind(model.reward)


@dataclass(frozen=True)
class OnlineRun(online.OnlineRun):
    """One online run: collect with the planner, train, measure (Algorithm 1).

    Attributes:
        render_preset: How images are drawn: faithful, with shadows, reflections and
            smooth edges, or fast, without (deviation 11 of the README).
        offline_episodes: Scripted episodes in the replay buffer from the start.
        model: The RSSM; by default LatCo's.
        planner: See `PlannerConfig`.
    """

    scale_episodes: int = 2
    offline_episodes: int = 0
    model: Settings = PAPER_MODEL
    planner: PlannerConfig = field(default_factory=PlannerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least("scale_episodes", self.scale_episodes, 1)
        require_at_least("offline_episodes", self.offline_episodes, 0)


def small_cheetah() -> OnlineRun:
    """Return stage (b): cheetah-run from vectors, made to learn in minutes on a core.

    Horizon, executed actions and tolerance are the paper's for the DeepMind control
    suite; iterations, model, action repeat and training are ours.
    """
    return OnlineRun(
        task="dm_control/cheetah-run",
        num_envs=2,
        posterior="mean",
        device="cpu",
        model=PAPER_MODEL.replaced(**online.SMALL_MODEL, reward_scale=20.0),
        planner=PlannerConfig(
            horizon=12, execute=6, iterations=30, tolerance=1e-2, engine="theseus"
        ),
        training=OnlineConfig(
            rounds=8,
            seed_episodes=6,
            episodes_per_round=2,
            pretrain_updates=300,
            updates_per_round=200,
            batch_size=16,
            sequence_length=30,
            action_repeat=4,
            evaluate_every=4,
            evaluation_episodes=2,
            optimizer=OptimizerConfig(learning_rate=1e-3),
        ),
    )


def small_run(run: str = CHEETAH) -> OnlineRun:
    """Return stage (b) with a task and a planner, from vectors, in minutes on a core.

    Args:
        run: `task/planner`, of `RUNS`.

    Raises:
        UnknownNameError: lists close matches.
    """
    small = small_cheetah()
    if run == CHEETAH:
        return small
    task, _, planner = require_known("run", run, RUNS).partition("/")
    paper, training = paper_run(task, planner), small.training
    iterations = SMALL_ITERATIONS[planner]
    if task in DM_CONTROL:
        iterations = min(iterations, small.planner.iterations)
    else:
        training = replace(
            training,
            rounds=20,
            seed_episodes=10,
            updates_per_round=100,
            action_repeat=paper.training.action_repeat,
            evaluate_every=10,
        )
    return replace(
        small,
        task=paper.task,
        offline_episodes=paper.offline_episodes,
        model=_for_rewards(small.model, task),
        planner=replace(paper.planner, iterations=iterations, num_samples=1000),
        training=training,
    )


def smoke_cheetah(run: str = CHEETAH) -> OnlineRun:
    """Return a run of seconds that learns nothing; cheetah's, or `task/planner`."""
    small = small_run(run)
    return replace(
        small,
        scale_episodes=1,
        offline_episodes=min(small.offline_episodes, 10),
        model=small.model.replaced(state_size=8, belief_size=16, hidden_size=32),
        planner=replace(small.planner, iterations=3),
        training=replace(
            small.training,
            rounds=2,
            seed_episodes=1,
            pretrain_updates=2,
            updates_per_round=2,
            batch_size=4,
            sequence_length=7,  # of Meta-World's 8 decisions
            action_repeat=20,
            evaluate_every=1,
            evaluation_episodes=1,
        ),
    )


def paper_run(task: str = "reach", planner: str = "latco") -> OnlineRun:
    """Return the paper's protocol: online, from pixels, the released schedule.

    Args:
        task: A task of the paper: `ALL_TASKS`.
        planner: A planner of the paper: `PLANNERS`.

    Raises:
        UnknownNameError: lists close matches.
    """
    require_known("planner", planner, PLANNERS)
    require_known("task", task, ALL_TASKS)
    suite = "dm_control" if task in DM_CONTROL else "metaworld"
    return OnlineRun(
        task=f"{suite}/{task}",
        observation="pixels",
        render_preset="faithful",
        # The released offline sets cannot be had: scripted episodes stand in.
        offline_episodes=200 if task in HYBRID else 0,
        model=_for_rewards(PAPER_MODEL, task),
        planner=_paper_planner(task, planner),
        training=_paper_training(task),
    )


def _for_rewards(model: Settings, task: str) -> Settings:
    """Return the model of a task: with a dense reward it normalises this."""
    if task not in SHAPED:
        return model
    return Settings(DenseRSSM, **model, reward_momentum=0.99)


def _paper_planner(task: str, planner: str) -> PlannerConfig:
    """Return horizons of section 5.1 and budgets of the appendix and the release.

    Gaussian LatCo "requires less optimization steps to converge and use[s] 50
    iterations" (appendix B), on every task.
    """
    task = task.removeprefix(DENSE)
    if task in DM_CONTROL:
        budget = PlannerConfig(planner, 12, 6, tolerance=1e-2, num_samples=1000)
        iterations = {"cem": 10, "mppi": 10, "gaussian_latco": 50}
    else:
        long = task in ("push", *HYBRID)
        budget = PlannerConfig(planner, 50 if long else 30, 25 if long else 30)
        iterations = {"latco": 200, "gd": 500, "gaussian_latco": 50, "ilqr": 200}
    return replace(budget, iterations=iterations.get(planner, 100))


def _paper_training(task: str) -> OnlineConfig:
    """Return the release's schedule, counted in environment steps as the paper does."""
    length, repeat, updates, steps = 150, 1, 15, 500_000
    if task in DM_CONTROL:
        length, repeat, updates, steps = 1000, 2, 100, 800_000
    if task in HYBRID:
        repeat, steps = 2, 400_000
    prefill = -(-PREFILL_STEPS // length)
    return OnlineConfig(
        rounds=steps // length - prefill,
        seed_episodes=prefill,
        episodes_per_round=1,
        pretrain_updates=100,
        updates_per_round=updates,
        sequence_length=49,  # actions: windows of 50 observations, as released
        skip_last_step=True,
        action_repeat=repeat,
        evaluate_every=round(EVALUATION_STEPS / length),
        checkpoint_every=2 if task in DM_CONTROL else 10,
    )
