"""Phase 3 of stage (c): PPO through the embedded controller.

The policy is a Gaussian around the first action of the plan; its value is read off the
belief. The model is no longer fitted to what happens: the only signal is the return.
What was random in the search is stored with each decision and is part of what the
policy acts on, so that probabilities before and after an update are of the same thing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from diffplan._runs.online import action_box
from diffplan.envs.vector import VectorEnv
from diffplan.functional.returns import generalized_advantages
from diffplan.models._networks import MLP
from diffplan.training._interaction import run_episodes
from diffplan.training.episode import Episode
from diffplan.training.evaluate import Evaluation, evaluate
from diffplan.training.ppo import PPO, Experience, RewardScale
from diffplan.training.run import run_rounds
from diffplan.training.seeding import (
    SIMULATOR_BITS,
    derive_seed,
    global_seeds,
    make_generator,
)
from diffplan.training.timer import Timers
from reproductions.dcem.locomotion_config import (
    EmbeddingSettings,
    Place,
    PolicySettings,
)
from reproductions.dcem.locomotion_controller import (
    ControllerAgent,
    Decision,
    EmbeddedController,
)
from reproductions.dcem.locomotion_world import environments, load_controller, save


class ControllerPolicy(nn.Module):
    """`(belief, noise of the search) → Gaussian over actions, value`.

    Of the controller, the parts that are not tuned ask for no gradient from here on.

    Args:
        controller: Gives the mean.
        settings: Deviation, value function, and which parts are tuned.
        seed: Of the value function's weights.
    """

    def __init__(
        self, controller: EmbeddedController, settings: PolicySettings, seed: int
    ) -> None:
        super().__init__()
        self.controller, self.settings = controller, settings
        controller.requires_grad_(False)
        for parameter in self._tuned():
            parameter.requires_grad_(True)
        model, hidden = controller.model, settings.critic_hidden
        with global_seeds(seed):
            self.critic = MLP(
                [model.state_dim, hidden, hidden, 1], ["tanh", "tanh", "linear"]
            )
        std = torch.full((model.action_dim,), settings.std)
        self.log_std = nn.Parameter(std.log(), requires_grad=settings.learn_std)
        self.to(next(model.parameters()).device)

    @property
    def std(self) -> Tensor:
        """The deviation of each action `[A]`."""
        return self.log_std.exp()

    def forward(self, belief: Tensor, noise: Tensor) -> tuple[Independent, Tensor]:
        """Return the distribution of actions `[B, A]` and the values `[B]`."""
        mean = self.controller.plan(belief, noise)[:, 0]
        return self.around(mean), self.value(belief)

    def around(self, mean: Tensor) -> Independent:
        """Return the distribution of actions around the controller's."""
        return Independent(Normal(mean, self.std, validate_args=False), 1)

    def value(self, belief: Tensor) -> Tensor:
        """Return the predicted (scaled, discounted) return `[…]` from beliefs."""
        return self.critic(belief).squeeze(-1)

    def groups(self) -> list[dict[str, Any]]:
        """Return what PPO learns, for `torch.optim`."""
        own = list(self.critic.parameters())
        if self.settings.learn_std:
            own.append(self.log_std)
        rate = self.settings.critic_learning_rate
        return [{"params": self._tuned()}, {"params": own, "lr": rate}]

    def _tuned(self) -> list[nn.Parameter]:
        return [p for name in self.settings.tuned for p in self.controller.part(name)]


class PolicyTraining:
    """The rounds of phase 3: collect, learn, evaluate where it is due.

    Args:
        policy: Trained in place.
        envs: Of the task.
        place: The task.
        settings: Of phase 3.
        steps: Of PPO, in all.
        seed: Of episodes, planning, exploration and shuffling.
    """

    def __init__(
        self,
        policy: ControllerPolicy,
        envs: VectorEnv,
        place: Place,
        settings: PolicySettings,
        steps: int,
        seed: int,
    ) -> None:
        self.policy, self.envs, self.place = policy, envs, place
        self.settings, self.steps, self.seed = settings, steps, seed
        self.ppo = PPO(policy, settings.ppo, policy.groups())
        self.reward_scale = RewardScale(settings.ppo.discount)
        self.environment_step = 0
        self._shuffling = make_generator(seed, "shuffling")
        self._timers = Timers()

    def play_round(self, index: int) -> tuple[int, dict[str, float]]:
        """Make one step of PPO on fresh episodes."""
        with self._timers("collecting"):
            experience, metrics = self._collect(index)
        with self._timers("training"):
            found = self.ppo.update(experience, self._shuffling)
        metrics |= {f"ppo/{name}": value for name, value in found.items()}
        metrics["ppo/std"] = float(self.policy.std.mean())
        every = self.settings.evaluate_every
        if every and ((index + 1) % every == 0 or index + 1 == self.steps):
            with self._timers("evaluation"):
                metrics |= self._evaluate(index).metrics("test")
        return self.environment_step, metrics | self._timers.collect()

    def state_dict(self) -> dict[str, Any]:
        """Return policy, optimiser, scale, counter and random state."""
        return {
            "policy": self.policy.state_dict(),
            "ppo": self.ppo.state_dict(),
            "reward_scale": self.reward_scale.state_dict(),
            "environment_step": self.environment_step,
            "shuffling": self._shuffling.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.ppo.load_state_dict(state["ppo"])
        self.reward_scale.load_state_dict(state["reward_scale"])
        self.environment_step = state["environment_step"]
        self._shuffling.set_state(state["shuffling"])

    def _collect(self, index: int) -> tuple[Experience, dict[str, float]]:
        """Play the episodes of a step; return them as experience, and metrics."""
        newest: list[Decision] = []
        batches: dict[int, list[Decision]] = {}
        episodes = run_episodes(
            self._agent(newest.append),
            self.envs,
            self._seeds("episode", index, self.settings.episodes),
            agent_seed=derive_seed(self.seed, "agent", index),
            explore=True,
            observer=lambda first, *_: batches.setdefault(first, []).append(
                newest.pop()
            ),
        )
        for episode in episodes:
            self.reward_scale.observe(torch.from_numpy(episode.rewards))
        pieces = []
        for number, episode in enumerate(episodes):
            self.environment_step += episode.length * self.place.action_repeat
            row = number % self.envs.num_envs
            decisions = batches[number - row][: episode.length]
            pieces.append(self._experience(episode, decisions, row))
        metrics = Evaluation.of(episodes).metrics("collect")
        return Experience.cat(pieces), metrics

    @torch.no_grad()
    def _experience(
        self, episode: Episode, decisions: list[Decision], row: int
    ) -> Experience:
        """Return one episode's decisions, judged by what followed."""
        policy = self.policy
        belief, noise, mean, action = (
            torch.stack([getattr(decision, name)[row] for decision in decisions])
            for name in ("belief", "noise", "mean", "action")
        )
        executed = policy.controller.problem.action_space.project(action[-1])
        arrival = torch.from_numpy(episode.observations[-1]).to(belief.device)
        last = policy.controller.model.observe(belief[-1], executed, arrival)
        # The time was up, nothing ended: what follows the last step still counts.
        values = policy.value(torch.cat([belief, last[None]]))
        rewards = torch.from_numpy(episode.rewards).to(belief.device)
        config = self.settings.ppo
        advantages = generalized_advantages(
            self.reward_scale.apply(rewards),
            values,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
        )
        log_probs = policy.around(mean).log_prob(action)
        return Experience((belief, noise), action, log_probs, values[:-1], advantages)

    def _evaluate(self, index: int) -> Evaluation:
        """Play noise-free episodes."""
        return evaluate(
            self._agent(None),
            self.envs,
            self._seeds("evaluation", index, self.settings.evaluation_episodes),
            agent_seed=derive_seed(self.seed, "evaluation agent", index),
        )

    def _agent(self, record: Any) -> ControllerAgent:
        policy, posterior = self.policy, self.place.world.posterior
        return ControllerAgent(
            policy.controller, lambda: policy.std.detach(), posterior, record
        )

    def _seeds(self, name: str, index: int, count: int) -> list[int]:
        return [
            derive_seed(self.seed, name, index, number, bits=SIMULATOR_BITS)
            for number in range(count)
        ]


def train_policy(
    place: Place,
    seed: int,
    embedding: EmbeddingSettings,
    policy: PolicySettings,
    steps: int,
    embedded: Path,
    directory: Path,
) -> None:
    """Phase 3: fine-tune parts of the controller; resumes from the folder's checkpoint.

    Args:
        place: The task.
        seed: Of the value function's weights, episodes, planning and shuffling.
        embedding: The controller's settings.
        policy: PPO's, and which parts are tuned.
        steps: Of PPO.
        embedded: The folder of phase 2.
        directory: Receives metrics, checkpoints, `model.pt` and `decoder.pt`.
    """
    world, seed = place.world, derive_seed(seed, "policy")
    with environments(place, world.policy_envs) as envs:
        box = action_box(envs.single_action_space, world.resolve_device())
        controller = load_controller(embedded, embedding, box)
        learner = ControllerPolicy(controller, policy, seed)
        run_rounds(
            PolicyTraining(learner, envs, place, policy, steps, seed),
            directory,
            config=policy,
            seed=seed,
            rounds=steps,
            checkpoint_every=policy.checkpoint_every,
            tensorboard=False,
        )
    save(directory, controller.model, controller.decoder)
