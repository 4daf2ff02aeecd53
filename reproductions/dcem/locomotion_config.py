"""Settings of stage (c), cheetah and walker: the paper's by default."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice

import torch
from torch import Tensor

from diffplan._checks import require_at_least, require_known, require_positive
from diffplan._runs.online import Acting
from diffplan._runs.settings import Settings
from diffplan.errors import ArgumentError
from diffplan.models.rssm import RSSM
from diffplan.planners import CEM, DCEM
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.online import OnlineConfig
from diffplan.training.ppo import PPOConfig

TASKS = ("cheetah-run", "walker-walk")
PARTS = ("reward", "transition", "decoder")
"""Of the controller, what PPO may fine-tune."""


MODEL = Settings(
    RSSM,
    state_size=30,
    belief_size=200,
    hidden_size=200,
    embedding_size=200,
    vector_hidden=200,
    reward_hidden=200,
    activation="relu",
    initialization="torch",
    free_nats=3.0,
    free_nats_on="step",
    kl_scale=1.0,
    observation_scale=2.0,
    reward_scale=2.0,
)
"""Two layers of 200 as in the paper, the rest of PlaNet in PyTorch."""

# Candidates begin as N(0, 1), as in PlaNet.
SEARCH = Settings(
    partial(CEM, epsilon=0.0),
    horizon=12,
    num_samples=1000,
    num_elites=100,
    iterations=10,
)
"""CEM in the space of actions, the planner of phase 1."""


@dataclass(frozen=True)
class EmbeddingSettings:
    """DCEM in the latent space of a decoder, the planner of phases 2 and 3.

    Attributes:
        horizon: Actions of a plan.
        latent: Size of the latent space [-1, 1]^d.
        hidden: Width of the decoder's two hidden layers.
        num_samples: Candidates per refit.
        num_elites: Sum of the choices.
        iterations: Refits.
        temperature: Of the choice.
        initial_std: Spread of the first candidates.
        states: From the replay buffer, that each update of the decoder plans from.
        learning_rate: Of the decoder's Adam.
        gradient_clip: Largest norm of the decoder's gradient.
        exploration: Deviations of the noise on actions in phase 2, which the episodes
            that are collected side by side take in turn; √0.3 as in the implementation
            of PlaNet that the authors name.
        keep_model: Whether phase 2 goes on with the model of phase 1.
        keep_replay: Whether it goes on with its episodes.
        kl_scale: Weight of the divergence in the model's loss in phase 2; None keeps
            that of phase 1.
    """

    horizon: int = 12
    latent: int = 8
    hidden: int = 200
    num_samples: int = 100
    num_elites: int = 10
    iterations: int = 10
    temperature: float = 1.0
    initial_std: float = 0.5
    states: int = 50
    learning_rate: float = 5e-4
    gradient_clip: float = 1.0
    exploration: tuple[float, ...] = (0.55,)
    keep_model: bool = True
    keep_replay: bool = True
    kl_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("horizon", "latent", "hidden", "states"):
            require_at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "gradient_clip"):
            require_positive(name, getattr(self, name))
        if self.kl_scale is not None:
            require_positive("kl_scale", self.kl_scale)
        if not self.exploration or min(self.exploration) < 0:
            raise ArgumentError(
                f"exploration: expected deviations of at least 0, "
                f"got {self.exploration}"
            )

    def deviations(self, count: int) -> Tensor:
        """Return the deviations of the noise on actions of some episodes `[B, 1]`."""
        return torch.tensor(list(islice(cycle(self.exploration), count)))[:, None]

    def search(self) -> DCEM:
        """Return what searches the latent space."""
        return DCEM(
            1,
            num_samples=self.num_samples,
            num_elites=self.num_elites,
            iterations=self.iterations,
            temperature=self.temperature,
            initial_std=self.initial_std,
        )


@dataclass(frozen=True)
class PolicySettings:
    """PPO through the controller, phase 3.

    Attributes:
        episodes: Collected for each step of PPO.
        tuned: Parts that are fine-tuned, of reward, transition and decoder; the others
            are frozen.
        std: Deviation of the policy around the controller's action: √0.1, for "a fixed
            variance of 0.1" (appendix D).
        learn_std: Whether that is where it begins, instead of being fixed.
        critic_hidden: Width of the two layers of the value function.
        critic_learning_rate: Of the value function and of a learnt deviation.
        evaluate_every: Steps of PPO between two evaluations.
        evaluation_episodes: Noise-free episodes in each.
        checkpoint_every: Steps of PPO between two checkpoints.
        ppo: PPO's own settings; its learning rate is that of the controller's parts.
    """

    episodes: int = 10
    tuned: tuple[str, ...] = ("decoder", "reward")
    std: float = 0.1**0.5
    learn_std: bool = False
    critic_hidden: int = 64
    critic_learning_rate: float = 3e-4
    evaluate_every: int = 20
    evaluation_episodes: int = 10
    checkpoint_every: int = 1
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(passes=2, learning_rate=1e-5)
    )

    def __post_init__(self) -> None:
        for name in ("episodes", "critic_hidden", "evaluation_episodes"):
            require_at_least(name, getattr(self, name), 1)
        require_positive("std", self.std)
        if not self.tuned:
            raise ArgumentError(f"tuned: expected some of {PARTS}, got none")
        for name in self.tuned:
            require_known("tuned", name, PARTS)


@dataclass(frozen=True)
class TaskSettings:
    """How long one task is trained.

    Attributes:
        action_repeat: Simulated steps per decision.
        initial_rounds: Of phase 1, after the seed episodes.
        embedded_rounds: Of phase 2, after its first episodes.
        policy_steps: Of PPO.
    """

    action_repeat: int
    initial_rounds: int
    embedded_rounds: int
    policy_steps: int


@dataclass(frozen=True)
class World(Acting):
    """The environments, and how agents act in them; `num_envs` are those of phase 1.

    Attributes:
        time_limit: Simulated steps per episode.
        embedded_envs: Episodes that phase 2 collects side by side.
        policy_envs: Episodes that phase 3 collects side by side.
        test_envs: Episodes that are tested side by side.
        compile: Compile the rollouts of phases 1 and 2, which takes minutes and halves
            their time; needs a C++ compiler. Phase 3 plans for too many different
            numbers of states, tests count every transition.
    """

    time_limit: int = 1000
    embedded_envs: int = 1
    policy_envs: int = 10
    test_envs: int = 10
    compile: bool = True


@dataclass(frozen=True)
class Place:
    """Where one task is played.

    Attributes:
        task: Its name.
        action_repeat: Simulated steps per decision.
        world: The environments, and how agents act in them.
    """

    task: str
    action_repeat: int
    world: World


def initial_training() -> OnlineConfig:
    """Return phase 1 with the paper's batches and PlaNet's optimiser."""
    return OnlineConfig(
        seed_episodes=5,
        episodes_per_round=1,
        updates_per_round=100,
        interleave=True,
        batch_size=50,
        sequence_length=50,
        evaluate_every=25,
        evaluation_episodes=1,
        checkpoint_every=5,
        videos=False,
        optimizer=OptimizerConfig(1e-3, 1e-4, 1000.0),
    )


def embedded_training() -> OnlineConfig:
    """Return phase 2: as phase 1, its first episodes collected by the controller.

    What was evaluated best goes on: the medians of Fig. 4 and the start of the curves
    of phase 3 are at the peak of the paper's curves of phase 2, not at their end.
    """
    return replace(
        initial_training(), seed_episodes=1, evaluation_episodes=10, keep_best=True
    )


@dataclass(frozen=True)
class LocomotionConfig:
    """Settings of stage (c).

    Attributes:
        tasks: Of the DeepMind control suite.
        models: How many, where --seeds does not say which; the paper has one model of
            each task.
        test_episodes: Noise-free episodes after each phase (Fig. 4).
        cheetah: Lengths of cheetah run.
        walker: Lengths of walker walk.
        world: The environments, and how agents act in them.
        model: The RSSM.
        search: CEM in the space of actions.
        embedding: DCEM in a latent space of action sequences.
        initial: Training of phase 1; rounds and action repeat are those of the task.
        embedded: Training of phase 2.
        policy: Phase 3.
    """

    tasks: tuple[str, ...] = TASKS
    models: int = 1
    test_episodes: int = 100
    cheetah: TaskSettings = field(
        default_factory=lambda: TaskSettings(4, 1995, 874, 2920)
    )
    walker: TaskSettings = field(
        default_factory=lambda: TaskSettings(2, 3995, 747, 1420)
    )
    world: World = field(default_factory=World)
    model: Settings = MODEL
    search: Settings = SEARCH
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings)
    initial: OnlineConfig = field(default_factory=initial_training)
    embedded: OnlineConfig = field(default_factory=embedded_training)
    policy: PolicySettings = field(default_factory=PolicySettings)

    def __post_init__(self) -> None:
        require_at_least("models", self.models, 1)
        require_at_least("test_episodes", self.test_episodes, 1)
        for task in self.tasks:
            require_known("tasks", task, TASKS)

    def lengths(self, task: str) -> TaskSettings:
        """Return how long a task is trained."""
        return {"cheetah-run": self.cheetah, "walker-walk": self.walker}[task]

    def place(self, task: str) -> Place:
        """Return where a task is played."""
        return Place(task, self.lengths(task).action_repeat, self.world)
