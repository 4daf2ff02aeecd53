"""Learning by acting: collect with the planner, train the model, measure, repeat.

Algorithm 1 of LatCo (Rybkin et al. 2021, arXiv:2106.13229), which is that of PlaNet.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffplan._checks import require_count, require_share
from diffplan.agents._base import Agent
from diffplan.agents.exploration import UniformAgent
from diffplan.errors import ArgumentError
from diffplan.models.base import SequenceBatch, WorldModel
from diffplan.training._description import described_parts
from diffplan.training._environments import require_environments
from diffplan.training._interaction import Environments, Observer, run_episodes
from diffplan.training._run_record import plain
from diffplan.training._updates import AuxiliaryUpdate as AuxiliaryUpdate
from diffplan.training._updates import Updates
from diffplan.training.episode import Episode
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.logging import MetricWriter
from diffplan.training.model_trainer import ModelTrainer, OptimizerConfig
from diffplan.training.recorder import EpisodeRecorder
from diffplan.training.replay_buffer import ReplayBuffer
from diffplan.training.run import run_rounds
from diffplan.training.seeding import SIMULATOR_BITS, derive_seed, make_generator
from diffplan.training.timer import Timers


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of online training; the defaults are LatCo's for DeepMind control.

    Round 0 collects the seed episodes and pretrains; each later round collects with
    the planner and trains.

    Attributes:
        rounds: After round 0.
        seed_episodes: Collected with uniformly random actions.
        episodes_per_round: Collected with the agent and its exploration noise.
        pretrain_updates: Gradient steps in round 0.
        updates_per_round: Gradient steps in each later round.
        interleave: Whether these are spread evenly over the round's decisions, on the
            episodes of earlier rounds (DCEM, arXiv:1909.12830, algorithm 3), instead
            of following them.
        batch_size: Windows per update.
        sequence_length: Actions per window.
        initial_fraction: Share of windows that start at a reset.
        skip_short: Whether episodes shorter than a window are left out.
        skip_last_step: See `ReplayBuffer.sample`.
        replay_capacity: Most transitions in memory; None keeps all.
        action_repeat: Simulated steps per decision, to count steps; set it to what
            the environments do. A decision that the end of an episode cuts short counts
            in full, since environments do not tell how many steps they simulated.
        evaluate_every: Rounds between two evaluations; 0 never evaluates.
        evaluation_episodes: Noise-free episodes in each.
        keep_best: Whether what was evaluated best is kept, see `OnlineTrainer.best`.
        videos: Whether evaluation from images writes `videos/round_….mp4`: its first
            episode beside what the plans had imagined.
        checkpoint_every: Rounds between two checkpoints.
        optimizer: Of the model.
    """

    rounds: int = 800
    seed_episodes: int = 5
    episodes_per_round: int = 1
    pretrain_updates: int = 100
    updates_per_round: int = 100
    interleave: bool = False
    batch_size: int = 50
    sequence_length: int = 50
    initial_fraction: float = 0.0
    skip_short: bool = False
    skip_last_step: bool = False
    replay_capacity: int | None = None
    action_repeat: int = 1
    evaluate_every: int = 10
    evaluation_episodes: int = 1
    keep_best: bool = False
    videos: bool = True
    checkpoint_every: int = 1
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        zero = ("rounds", "pretrain_updates", "updates_per_round", "evaluate_every")
        one = ("seed_episodes", "episodes_per_round", "batch_size", "sequence_length")
        more = ("action_repeat", "evaluation_episodes", "checkpoint_every")
        for name in (*zero, *one, *more):
            require_count(name, getattr(self, name), int(name not in zero))
        if self.replay_capacity is not None:
            require_count("replay_capacity", self.replay_capacity)
        require_share("initial_fraction", self.initial_fraction)
        if self.keep_best and not self.evaluate_every:
            raise ArgumentError(
                "keep_best: expected evaluations to choose by, got evaluate_every = 0"
            )


@dataclass(frozen=True)
class Best:
    """What was learnt, as it was when it was evaluated best.

    Attributes:
        index: The round.
        mean_return: Of that evaluation; the highest of several noisy means, so that
            fresh episodes are worth less on average.
        model: The model's `state_dict`.
        auxiliary: The update of what learns beside the model, or None.
    """

    index: int
    mean_return: float
    model: dict[str, Any]
    auxiliary: dict[str, Any] | None


class OnlineTrainer:
    """Trains a world model on what its agent meets.

    Killed at any moment and started again with the same arguments, it goes on from
    the last checkpoint and gives the same numbers, bit for bit: an episode's seed
    follows from its number, so no simulator is saved, and every other random state
    is in the checkpoint. `rounds` alone may differ, to make a run longer; `best` and
    all that is learnt are then those of a run without the stop. An evaluation that was
    only due because the shorter run ended stays in `metrics.csv` and `videos`.

    Args:
        model: Trained in place; the agent plans with it.
        agent: Acts with the model, usually a `PlanningAgent`.
        environments: Of `diffplan.envs.make_vector`; others are refused with advice.
        config: The settings.
        seed: Of the run: episodes, planning, sampling, noise. Not of the model's
            initial weights, which the caller chose.
        directory: Receives `run.json`, `metrics.csv`, episodes and checkpoints.
        seed_agent: Collects the first episodes; None stands for uniform actions.
        offline_episodes: Pooled with the collected ones (LatCo's hybrid training).
        auxiliary: Learns beside the model, from the same batches.
        absorbing_steps: See `ReplayBuffer`; for a model without `continues`.

    Attributes:
        best: What was evaluated best so far, if `config.keep_best` and there was an
            evaluation; of equals, the first.

    Example:
        >>> trainer = OnlineTrainer(
        ...     model, agent, envs, OnlineConfig(rounds=10), seed=0, directory="run"
        ... )  # doctest: +SKIP
        >>> trainer.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: WorldModel,
        agent: Agent,
        environments: Environments | Any,
        config: OnlineConfig,
        *,
        seed: int,
        directory: Path | str,
        seed_agent: Agent | None = None,
        offline_episodes: Sequence[Episode] = (),
        auxiliary: AuxiliaryUpdate | None = None,
        absorbing_steps: int = 0,
    ) -> None:
        self.model, self.agent = model, agent
        self.environments = require_environments(environments)
        self.config, self.seed, self.directory = config, seed, Path(directory)
        self.seed_agent = seed_agent or UniformAgent(agent.action_space)
        self.auxiliary = auxiliary
        self._offline_episodes = tuple(offline_episodes)
        self._absorbing_steps = absorbing_steps
        self.buffer = self._first_buffer()
        self.trainer = ModelTrainer(model, config.optimizer)
        self.environment_step = 0
        self.best: Best | None = None
        self._regular_best: Best | None = None
        self._sampling = make_generator(seed, "sampling")
        self._noise = make_generator(seed, "model noise", device=self.trainer.device)
        self._timers = Timers()

    def run(
        self,
        *,
        tensorboard: bool = True,
        quiet: bool = False,
        writers: Sequence[MetricWriter] = (),
    ) -> None:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            tensorboard: Whether to write TensorBoard events, if it is installed.
            quiet: Whether to show no progress.
            writers: Of metrics: a `Tracker`, or a callback of yours with `write` and
                `close`; they are closed at the end.

        Raises:
            ArgumentError: the folder holds a run with another planner, exploration,
                other offline episodes or other settings.
        """
        parts = described_parts(
            self.agent, self.seed_agent, self.auxiliary, self._offline_episodes
        )
        absorbing = {"absorbing_steps": self._absorbing_steps}
        run_rounds(
            self,
            self.directory,
            config={**plain(self.config), **absorbing, **parts},
            seed=self.seed,
            rounds=1 + self.config.rounds,
            checkpoint_every=self.config.checkpoint_every,
            extensible=("rounds",),
            tensorboard=tensorboard,
            quiet=quiet,
            writers=writers,
        )

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Collect, train and — where it is due — evaluate."""
        before = self.environment_step
        updates = self._updates(index)
        interleave = self.config.interleave and index > 0
        episodes = self._collect(index, updates if interleave else None)
        if interleave:
            updates.finish()  # What is left of them, before these episodes count.
        metrics = self._add(episodes)
        means = updates.finish()
        metrics |= {f"train/{name}": value for name, value in means.items()}
        if self._evaluation_due(index):
            with self._timers("evaluation"):
                evaluation = self._evaluate_round(index)
            metrics |= evaluation.metrics("test")
            if self.config.keep_best:
                self._keep(index, evaluation.mean_return)
        metrics |= self._timers.collect()
        steps = self.environment_step - before
        metrics["time/environment_steps_per_second"] = steps / metrics["time/seconds"]
        return self.environment_step, metrics

    def evaluate(
        self,
        episodes: int,
        index: int | None = None,
        observer: Observer | None = None,
    ) -> Evaluation:
        """Run noise-free episodes with the present model; it writes no video.

        Args:
            episodes: How many.
            index: Of the round whose episodes are run; None stands for some that no
                round has, the same at each call.
            observer: Called after every decision, such as an `EpisodeRecorder`.
        """
        which = "of no round" if index is None else index
        seeds = [
            derive_seed(self.seed, "evaluation", which, number, bits=SIMULATOR_BITS)
            for number in range(episodes)
        ]
        return evaluate(
            self.agent,
            self.environments,
            seeds,
            agent_seed=derive_seed(self.seed, "evaluation agent", which),
            observer=observer,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return model, optimiser, counters and all random states."""
        state = {
            "trainer": self.trainer.state_dict(),
            "environment_step": self.environment_step,
            "episodes": (self.buffer.num_written, self.buffer.checksum),
            "sampling": self._sampling.get_state(),
            "noise": self._noise.get_state(),
        }
        if self.auxiliary is not None:
            state["auxiliary"] = self.auxiliary.state_dict()
        kept = {"best": self.best, "regular_best": self._regular_best}
        found = {name: vars(best) for name, best in kept.items() if best is not None}
        return state | {name: dict(best) for name, best in found.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned, with the folder's episodes."""
        self.trainer.load_state_dict(state["trainer"])
        self.environment_step = state["environment_step"]
        self.buffer = self._first_buffer()
        self.buffer.restore(*state["episodes"])
        self._sampling.set_state(state["sampling"])
        self._noise.set_state(state["noise"])
        if self.auxiliary is not None:
            self.auxiliary.load_state_dict(state["auxiliary"])
        self.best = Best(**state["best"]) if "best" in state else None
        regular = state.get("regular_best")
        self._regular_best = None if regular is None else Best(**regular)
        if self.best and self._regular_best and self.config.rounds > self.best.index:
            self.best, self._regular_best = self._regular_best, None

    def load_best(self) -> None:
        """Go back to the model, and what learnt beside it, of the best evaluation.

        For the end of a run: optimiser, episodes and random state stay as they are.

        Raises:
            ArgumentError: nothing was kept.
        """
        if self.best is None:
            raise ArgumentError(
                "best: expected keep_best and an evaluation before load_best, got none"
            )
        self.model.load_state_dict(self.best.model)
        if self.auxiliary is not None and self.best.auxiliary is not None:
            self.auxiliary.load_state_dict(self.best.auxiliary)

    def _evaluate_round(self, index: int) -> Evaluation:
        """Evaluate, and write the round's video."""
        recorder = EpisodeRecorder(self.model) if self.config.videos else None
        evaluation = self.evaluate(self.config.evaluation_episodes, index, recorder)
        if recorder is not None:
            recorder.write(self.directory / "videos" / f"round_{index:06d}")
        return evaluation

    def _keep(self, index: int, mean_return: float) -> None:
        """Remember what is learnt now, if nothing was evaluated better."""
        if self.best is None or mean_return > self.best.mean_return:
            auxiliary = None if self.auxiliary is None else self.auxiliary.state_dict()
            now = (self.model.state_dict(), auxiliary)
            if index % self.config.evaluate_every:
                # Only due because the run ends: a longer one goes back.
                self._regular_best = self.best
            # What state_dict returns shares memory with what goes on learning.
            self.best = Best(index, mean_return, *deepcopy(now))

    def _first_buffer(self) -> ReplayBuffer:
        """Return the buffer before round 0."""
        buffer = ReplayBuffer(
            self.directory / "episodes",
            capacity=self.config.replay_capacity,
            absorbing_steps=self._absorbing_steps,
        )
        for episode in self._offline_episodes:
            buffer.add(episode, write=False)
        return buffer

    def _collect(self, index: int, observer: Observer | None) -> list[Episode]:
        """Run the round's episodes."""
        count = self.config.episodes_per_round if index else self.config.seed_episodes
        first = self.buffer.num_written
        seeds = [
            derive_seed(self.seed, "episode", number, bits=SIMULATOR_BITS)
            for number in range(first, first + count)
        ]
        return run_episodes(
            self.agent if index else self.seed_agent,
            self.environments,
            seeds,
            agent_seed=derive_seed(self.seed, "agent", index),
            explore=True,
            timing=self._timers,
            observer=observer,
        )

    def _add(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn from these episodes too from now on; return what they say."""
        for episode in episodes:
            self.buffer.add(episode)
            self.environment_step += episode.length * self.config.action_repeat
        return Evaluation.of(episodes).metrics("collect")

    def _updates(self, index: int) -> Updates:
        """Return the round's gradient steps, none of them made yet."""
        config = self.config
        batches = -(-config.episodes_per_round // self.environments.num_envs)
        longest = max((episode.length for episode in self.buffer.episodes), default=1)
        total = config.updates_per_round if index else config.pretrain_updates
        return Updates(total, batches * longest, self._train)

    def _train(self, updates: int) -> dict[str, float]:
        then = None if self.auxiliary is None else self.auxiliary.update
        with self._timers("training"):
            return self.trainer.train(updates, self._draw, self._noise, then)

    def _draw(self) -> SequenceBatch:
        return self.buffer.sample(
            self.config.batch_size,
            self.config.sequence_length,
            self._sampling,
            initial_fraction=self.config.initial_fraction,
            skip_short=self.config.skip_short,
            skip_last_step=self.config.skip_last_step,
        )

    def _evaluation_due(self, index: int) -> bool:
        every = self.config.evaluate_every
        return every > 0 and (index % every == 0 or index == self.config.rounds)
