"""Settings of Dreamer, and of what its policy is compared with."""

from dataclasses import dataclass, field, replace

from diffplan._runs.online import OnlineRun
from diffplan._runs.settings import Settings
from diffplan.models import Actor, Critic
from diffplan.training.dreamer import DreamerConfig
from reproductions.grad_mpc.settings import (
    ACTION_REPEAT,
    PAPER_TRAINING,
    PLANET_MODEL,
    SMALL_MODEL,
    SMALL_TRAINING,
    SPARSE,
    shortened,
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
        critics: How many learn the same returns, for planners; Dreamer's is the first.
    """

    model: Settings = PLANET_MODEL
    learning: Settings = LEARNING
    actor: Settings = ACTOR
    critic: Settings = CRITIC
    critics: int = 5


@dataclass(frozen=True)
class DreamerStage:
    """Dreamer on several tasks, and its policy against what refines it.

    Attributes:
        tasks: Of the DeepMind control suite, each a run.
        run: What all runs share; task and action repeat are filled in.
        starts: Test episodes of each contender, from the same states.
        iterations: Of the gradient steps that are tried, for horizon 1 and eq. 6.
        step_sizes: Tried with each of them.
        longer: Horizons that are tried beside 1, with rewards and value of the end.
        cautious: As many gradient steps are tried with the least of all critics.
    """

    tasks: tuple[str, ...] = SPARSE
    run: DreamerRun = field(default_factory=DreamerRun)
    starts: int = 50
    iterations: tuple[int, ...] = (1, 10, 100)
    step_sizes: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1)
    longer: tuple[int, ...] = (3, 12)
    cautious: int = 10

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
            critics=3,
            training=replace(SMALL_TRAINING, rounds=40),
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
        cautious=1,
        run=shortened(run, learning=run.learning.replaced(horizon=3)),
    )


def paper() -> DreamerStage:
    """Return the paper's: 500,000 environment steps from pixels, Table 5.

    "hidden-size 400", "adam-epsilon 1e-4" and "grad-clip-norm 1000" are for all
    networks and optimisers, as those options of the PyTorch version are. What Table 5
    leaves out is that version's: ELU in dense layers, learning rates of actor and
    critic, and in tests the densest of 100 samples of the policy.
    """
    return DreamerStage(
        run=DreamerRun(
            observation="pixels",
            render_preset="faithful",
            model=PLANET_MODEL.replaced(
                hidden_size=400, reward_hidden=400, activation="elu"
            ),
            learning=LEARNING.replaced(epsilon=1e-4, gradient_clip=1000.0),
            actor=ACTOR.replaced(mode="densest"),
            # With the seed episodes 500 episodes.
            training=replace(PAPER_TRAINING, rounds=495),
        ),
    )
