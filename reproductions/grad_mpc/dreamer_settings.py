"""Settings of Dreamer, and of what its policy is compared with."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from diffplan.models import Actor, Critic
from diffplan.training.dreamer import DreamerConfig
from diffplan.training.model_trainer import OptimizerConfig
from diffplan.training.online import OnlineConfig
from reproductions.common.online import OnlineRun
from reproductions.common.settings import Settings
from reproductions.grad_mpc.settings import (
    ACTION_REPEAT,
    PLANET_MODEL,
    SMALL_MODEL,
    SPARSE,
)

LEARNING = Settings(DreamerConfig.pytorch)
"""The conventions of the PyTorch version, which the paper builds on."""

ACTOR = Settings(Actor, hidden_size=400, layers=4)
CRITIC = Settings(Critic, hidden_size=400, layers=3)


@dataclass(frozen=True)
class DreamerRun(OnlineRun):
    """One online run of Dreamer.

    Attributes:
        learning: Of actor and critic, see `diffplan.training.DreamerConfig`.
        actor: Its network.
        critic: Its network.
    """

    posterior: Literal["sample", "mean"] = "sample"
    model: Settings = PLANET_MODEL
    learning: Settings = LEARNING
    actor: Settings = ACTOR
    critic: Settings = CRITIC


@dataclass(frozen=True)
class DreamerStage:
    """Dreamer on several tasks, then its policy against what refines it.

    Attributes:
        tasks: Of the DeepMind control suite, each a run.
        run: What all runs share; task and action repeat are filled in.
        starts: Test episodes of each contender, from the same states.
        iterations: Of the gradient steps that are tried, for horizon 1 and eq. 6.
        step_sizes: Tried with each of them.
        longer: Horizons that are tried beside 1, with rewards and value of the end.
    """

    tasks: tuple[str, ...] = SPARSE
    run: DreamerRun = field(default_factory=DreamerRun)
    starts: int = 50
    iterations: tuple[int, ...] = (1, 10, 100)
    step_sizes: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1)
    longer: tuple[int, ...] = (3, 12)

    def of(self, task: str) -> DreamerRun:
        """Return the run of a task."""
        training = replace(self.run.training, action_repeat=ACTION_REPEAT[task])
        return replace(self.run, task=f"dm_control/{task}", training=training)


def small() -> DreamerStage:
    """Return what learns on two cores, from state vectors, with small networks."""
    return DreamerStage(
        tasks=("cartpole-swingup", "ball_in_cup-catch"),
        run=DreamerRun(
            num_envs=2,
            scale_episodes=2,
            device="cpu",
            model=SMALL_MODEL,
            learning=LEARNING.replaced(
                actor_learning_rate=3e-4, critic_learning_rate=3e-4
            ),
            actor=ACTOR.replaced(hidden_size=128, layers=2),
            critic=CRITIC.replaced(hidden_size=128, layers=2),
            training=OnlineConfig(
                rounds=40,
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
            ),
        ),
    )


def tiny() -> DreamerStage:
    """Return runs of seconds that learn nothing."""
    stage = small()
    run = stage.run
    return replace(
        stage,
        tasks=("cartpole-swingup",),
        starts=2,
        iterations=(1,),
        step_sizes=(0.01,),
        longer=(2,),
        run=replace(
            run,
            scale_episodes=1,
            model=SMALL_MODEL.replaced(state_size=4, belief_size=8, hidden_size=16),
            learning=run.learning.replaced(horizon=3),
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
        ),
    )


def paper() -> DreamerStage:
    """Return the paper's: 500,000 environment steps from pixels, Table 5."""
    return DreamerStage(
        run=DreamerRun(
            observation="pixels",
            render_preset="faithful",
            training=OnlineConfig(
                rounds=495,  # with the seed episodes 500 episodes
                seed_episodes=5,
                pretrain_updates=0,
                updates_per_round=100,
                batch_size=50,
                sequence_length=49,
                replay_capacity=1_000_000,
                evaluate_every=25,
                evaluation_episodes=10,
                optimizer=OptimizerConfig(
                    learning_rate=1e-3, epsilon=1e-4, gradient_clip=1000.0
                ),
            ),
        ),
    )


def with_task(make: Any, task: str | None = None) -> DreamerStage:
    """Return settings with one task of all."""
    stage: DreamerStage = make()
    return stage if task is None else replace(stage, tasks=(task,))
