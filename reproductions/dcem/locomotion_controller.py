"""The embedded controller of stage (c): DCEM in a learned space of action sequences.

A decoder turns a point of a small box into all actions of a plan; DCEM searches the box
on the world model. The whole is a differentiable function of decoder, reward and
transition, cheap enough to be differentiated.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffplan.agents import AgentState, Filter
from diffplan.agents._filtering import Filtering
from diffplan.functional._random import fold, standard_normal
from diffplan.models.base import SequenceBatch
from diffplan.models.rssm import RSSM
from diffplan.objectives.reward import NegativeReturn
from diffplan.planners import LatentActions
from diffplan.planners.request import PlanRequest
from diffplan.problem import Box, PlanningProblem
from diffplan.training._updates import descend
from diffplan.training.seeding import make_generator
from reproductions.dcem.locomotion_config import EmbeddingSettings

HIDDEN_LAYERS = 2


class SequenceDecoder(nn.Module):
    """Latent points `[…, d]` → action sequences `[…, T, A]` in -1 … 1.

    Two hidden layers with ReLU, as all functions of the paper's model. Weights begin so
    that the first latent points decode to sequences as different as the first
    candidates of CEM: with unit deviation, before tanh. From sequences that are all
    alike a decoder learns one that is good on average, at the ends of the box, and the
    search has nothing left to choose from.

    Args:
        latent: d.
        hidden: Width of the hidden layers.
        horizon: T.
        action_dim: A.
        generator: Of the weights.
        spread: Deviation of the first latent points.
    """

    def __init__(
        self,
        latent: int,
        hidden: int,
        horizon: int,
        action_dim: int,
        generator: torch.Generator,
        spread: float = 0.5,
    ) -> None:
        super().__init__()
        self.shape = (horizon, action_dim)
        sizes = [latent, *[hidden] * HIDDEN_LAYERS, horizon * action_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer, inputs in zip(self.layers, sizes, strict=False):
            # ReLU halves the mean square: this keeps it at spread².
            gain = 1 / spread if layer is self.layers[-1] else math.sqrt(2)
            std = gain / math.sqrt(inputs)
            nn.init.normal_(layer.weight, std=std, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """Return the actions."""
        value = latent
        for layer in self.layers[:-1]:
            value = torch.relu(layer(value))
        return torch.tanh(self.layers[-1](value)).unflatten(-1, self.shape)


class EmbeddedController(nn.Module):
    """Beliefs → plans, by DCEM in the decoder's latent space.

    Args:
        model: Its step and reward are planned with.
        decoder: See `SequenceDecoder`.
        settings: Of the search.
        action_space: What actions are allowed.
    """

    def __init__(
        self,
        model: RSSM,
        decoder: SequenceDecoder,
        settings: EmbeddingSettings,
        action_space: Box,
    ) -> None:
        super().__init__()
        self.model = model
        self.planner = LatentActions(
            settings.search(), decoder, settings.latent, horizon=decoder.shape[0]
        )
        self.problem = PlanningProblem(
            model.step, NegativeReturn(model.reward), action_space
        )

    @property
    def decoder(self) -> nn.Module:
        """The decoder."""
        decoder = self.planner.decoder
        assert isinstance(decoder, nn.Module)
        return decoder

    def part(self, name: str) -> list[nn.Parameter]:
        """Return the parameters of a part that PPO may tune, see `PARTS`.

        The transition is what rollouts use; the posterior and the networks that see or
        decode observations are no part of it.
        """
        transition = self.model.transition
        modules: dict[str, list[nn.Module]] = {
            "reward": [self.model.reward_head],
            "transition": [transition.inputs, transition.cell, transition.prior_head],
            "decoder": [self.decoder],
        }
        return [p for module in modules[name] for p in module.parameters()]

    def draw_noise(self, belief: Tensor, keys: Tensor) -> Tensor:
        """Draw the search's noise `[B, iterations, N, 1, d]` for beliefs `[B, S]`."""
        # Streams of their own: `Planner.draw_noise` would fold a seed into the keys.
        request = PlanRequest(self.problem, belief, keys=keys)
        noise = self.planner.noise_from_keys(request)
        assert noise is not None
        return noise

    def plan(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Return the plans `[B, T, A]` from beliefs `[B, S]`.

        Without the rollouts that describe the answer of a `Plan`: an action costs as
        many transitions as the search itself.
        """
        plan = self.planner(self.problem, belief, noise=noise, evaluate=False)
        return plan.actions

    def cost(self, belief: Tensor, noise: Tensor) -> Tensor:
        """Return minus the return `[B]` that the model predicts for the plans."""
        return self.problem.cost(belief, self.plan(belief, noise))


@dataclass(frozen=True)
class Decision:
    """What an agent thought at one moment, in B environments.

    Attributes:
        belief: `[B, S]`.
        noise: Of the search.
        mean: `[B, A]`, the controller's action.
        action: `[B, A]`, with noise, before it was clipped.
    """

    belief: Tensor
    noise: Tensor
    mean: Tensor
    action: Tensor


class ControllerAgent(Filtering):
    """Filters with the model and executes the first action of each plan.

    Args:
        controller: Plans.
        std: `() → deviation`, number, `[A]` or `[B, 1]`, of the Gaussian noise on
            explored actions.
        posterior: The belief is a "sample" of the posterior or its "mean".
        record: Receives every decision; None keeps nothing.
    """

    def __init__(
        self,
        controller: EmbeddedController,
        std: Callable[[], float | Tensor],
        posterior: Literal["mean", "sample"] = "mean",
        record: Callable[[Decision], object] | None = None,
    ) -> None:
        self.controller, self.std, self.record = controller, std, record
        self.filter = Filter(controller.model, posterior)

    @property
    def action_space(self) -> Box:
        """The box that every action lies in."""
        return self.controller.problem.action_space

    @torch.no_grad()
    def act(
        self, observation: Tensor, agent_state: AgentState, *, explore: bool = False
    ) -> tuple[Tensor, AgentState]:
        """Filter the newest observations `[B, D]` and choose actions `[B, A]`."""
        keys = agent_state.noise_keys()
        belief = self.filter(observation, agent_state, fold(keys, 0))
        noise = self.controller.draw_noise(belief, fold(keys, 1))
        mean = self.controller.plan(belief, noise)[:, 0]
        action = mean
        if explore:
            white = standard_normal(fold(keys, 2), mean.shape[1:], mean)
            action = mean + self.std() * white
        if self.record is not None:
            self.record(Decision(belief, noise, mean, action))
        executed = self.action_space.project(action)
        decision = agent_state.decision + 1
        return executed, replace(
            agent_state, state=belief, action=executed, decision=decision
        )


class DecoderTraining:
    """Updates the decoder inside the training of the model (Alg. 3).

    Each update plans from some states of the batch that the model has just learnt from,
    and follows the gradient of the predicted return of the plans that were found,
    through the search. The model is held fixed.

    Args:
        controller: Its decoder is trained.
        config: Of the optimiser.
        seed: Of states and search.
    """

    def __init__(
        self, controller: EmbeddedController, config: EmbeddingSettings, seed: int
    ) -> None:
        self.controller, self.config = controller, config
        self.learnt = list(controller.decoder.parameters())
        self.optimizer = torch.optim.Adam(self.learnt, lr=config.learning_rate)
        device = self.learnt[0].device
        self.generator = make_generator(seed, "decoder", device=device)

    def update(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Make one update; return the cost before it and the norm of its gradient."""
        belief = self._states(batch.to(self.generator.device))
        seeds = torch.randint(
            2**63 - 1,
            (len(belief),),
            generator=self.generator,
            device=self.generator.device,
        )
        noise = self.controller.draw_noise(belief, seeds)
        with held_fixed(self.controller.model):
            cost = self.controller.cost(belief, noise).mean()
            clip = self.config.gradient_clip
            norm = descend(cost, self.learnt, self.optimizer, clip)
        return {"decoder_cost": cost.detach(), "decoder_gradient_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """Return decoder, optimiser and random state."""
        return {
            "decoder": self.controller.decoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.controller.decoder.load_state_dict(state["decoder"])
        self.optimizer.load_state_dict(deepcopy(state["optimizer"]))
        self.generator.set_state(state["generator"])

    @torch.no_grad()
    def _states(self, batch: SequenceBatch) -> Tensor:
        """Return states `[n, S]` of the batch, each of its states equally likely."""
        states = self.controller.model.observe_sequence(batch, self.generator)
        flat = states.flatten(0, 1)
        index = torch.randint(
            len(flat),
            (self.config.states,),
            generator=self.generator,
            device=self.generator.device,
        )
        return flat[index]


@contextmanager
def held_fixed(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter of a module asks for a gradient: less is kept for one."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
