"""Dreamer: an actor and a critic that learn in what the world model imagines.

From every posterior state of a batch the actor acts in the model for some steps. The
critic learns the λ-returns of the imagined states, the actor climbs them: their
gradient passes through the model, which itself is left alone.

    s_0 = posterior,   u_t = actor(s_t),   s_{t+1} ~ prior(s_t, u_t)
    R_t = r(s_t) + γ ((1 - λ) v(s_{t+1}) + λ R_{t+1})

Paper, authors' code and its PyTorch version, which the Grad-MPC paper builds on, differ
in which states count and how: see `DreamerConfig`.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffplan._checks import require_count, require_positive, require_share
from diffplan._kinds import OrInfinite
from diffplan.capabilities import Ending, knows, takes_action
from diffplan.errors import ArgumentError, TensorTypeError
from diffplan.functional.returns import lambda_returns
from diffplan.models.base import SequenceBatch
from diffplan.training._updates import descend
from diffplan.training.seeding import make_generator


@dataclass(frozen=True)
class DreamerConfig:
    """How actor and critic learn; the defaults are those of the authors' code.

    Attributes:
        horizon: H, imagined actions.
        discount: γ.
        lambda_: λ of the returns.
        from_posterior: Whether the state that imagination begins in has a return too;
            else the first is that of the state after the first action.
        weigh: Whether the loss of a later state is discounted.
        last: The last state's value is only the "bootstrap" of those before it, or the
            last state "counts" itself: its return is r + γ v of itself.
        actor_learning_rate: Of Adam.
        critic_learning_rate: Of Adam.
        epsilon: Of Adam.
        gradient_clip: Largest Euclidean norm of the gradient of each of the two.

    Raises:
        ArgumentError: a number is out of range.
    """

    horizon: int = 15
    discount: float = 0.99
    lambda_: float = 0.95
    from_posterior: bool = False
    weigh: bool = True
    last: Literal["bootstrap", "counts"] = "bootstrap"
    actor_learning_rate: float = 8e-5
    critic_learning_rate: float = 8e-5
    epsilon: float = 1e-7
    gradient_clip: OrInfinite = 100.0

    def __post_init__(self) -> None:
        require_count("horizon", self.horizon)
        require_share("discount", self.discount)
        require_share("lambda_", self.lambda_)
        rates = ("actor_learning_rate", "critic_learning_rate")
        for name in (*rates, "epsilon", "gradient_clip"):
            require_positive(name, getattr(self, name))
        states = self.horizon + self.from_posterior
        if states < 2 and self.last == "bootstrap":
            raise ArgumentError(
                "horizon: expected at least 2, so that a state stands before the one "
                f"that is bootstrapped from, got {self.horizon}"
            )

    @classmethod
    def paper(cls, **options: Any) -> "DreamerConfig":
        """Return what the paper prints: every state from the posterior on, unweighted.

        arXiv:1912.01603, eq. 5 to 8: 15 returns for the 15 actions.
        """
        return cls(**{"from_posterior": True, "weigh": False, **options})

    @classmethod
    def pytorch(cls, **options: Any) -> "DreamerConfig":
        """Return what the PyTorch version does, on which Grad-MPC's hybrid stands.

        Of a horizon of 15 it imagines 14 actions, weighs nothing, and the last state's
        return is bootstrapped from its own value.
        """
        return cls(**{"horizon": 14, "weigh": False, "last": "counts", **options})


class Dreamer:
    """Trains an actor and a critic beside a world model, from the same batches.

    An `AuxiliaryUpdate` of `OnlineTrainer`: `auxiliary=Dreamer(…)`, and a `PolicyAgent`
    that acts with the actor. The model is used and not changed.

    Args:
        model: With `observe_sequence`, `step` or `sample_step`, and a reward on
            arrival. Where it says how the task ends (`continues`), returns end there.
        actor: With `sample(state, noise)`, `normal(state)` and `action_dim`, as
            `diffplan.models.Actor`.
        critic: `state […, S] → value […]`, such as `diffplan.models.Critic`.
        config: The settings.
        seed: Of imagination.
        others: Further critics that learn the same returns, of which the actor sees
            nothing: with the first they are an ensemble for planners. The gradients of
            all critics are clipped together.

    Raises:
        TensorTypeError: the model lacks one of the methods.
        ArgumentError: its reward asks for the action.

    Example:
        >>> from diffplan.models import RSSM, Actor, Critic
        >>> import diffplan as dp
        >>> model = RSSM((5,), action_dim=1, belief_size=8, state_size=4)
        >>> actor = Actor(12, dp.Box([-1.0], [1.0]), hidden_size=16)
        >>> learner = Dreamer(model, actor, Critic(12, hidden_size=16), seed=0)
        >>> batch = SequenceBatch(
        ...     torch.randn(2, 4, 5), torch.zeros(2, 3, 1), torch.ones(2, 3)
        ... )
        >>> sorted(learner.update(batch))[:2]
        ['actor_gradient_norm', 'actor_loss']
    """

    def __init__(
        self,
        model: Any,
        actor: nn.Module,
        critic: nn.Module,
        config: DreamerConfig | None = None,
        *,
        seed: int,
        others: Iterable[nn.Module] = (),
    ) -> None:
        if not hasattr(model, "observe_sequence") or not hasattr(model, "reward"):
            raise TensorTypeError(
                "model: expected observe_sequence(batch, generator) and reward(state), "
                f"{type(model).__name__} has not both"
            )
        self.model = model
        if takes_action(model.reward):
            raise ArgumentError(
                "model: expected a reward on arrival, reward(state), got one of state "
                "and action"
            )
        self.actor: Any = actor
        self.critic: Any = critic
        self.critics = nn.ModuleList([critic, *others])
        self.config = config = config or DreamerConfig()
        weight = next(model.parameters())
        self.generator = make_generator(seed, "imagination", device=weight.device)
        rates = (config.actor_learning_rate, config.critic_learning_rate)
        self.optimizers = tuple(
            torch.optim.Adam(part.parameters(), lr=rate, eps=config.epsilon)
            for part, rate in zip((actor, self.critics), rates, strict=True)
        )

    def update(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Make one step of both; return metrics, scalars without a graph."""
        with torch.no_grad():
            batch = batch.to(self.generator.device)
            start = self.model.observe_sequence(batch, self.generator).flatten(0, 1)
        actor_loss, critic_loss, metrics = self.losses(start)
        losses, clip = (actor_loss, critic_loss), self.config.gradient_clip
        networks = {"actor": self.actor, "critic": self.critics}.items()
        parts = zip(networks, losses, self.optimizers, strict=True)
        for (name, network), loss, optimizer in parts:
            norm = descend(loss, network.parameters(), optimizer, clip)
            # Told because a finite loss may have a gradient that is not, which would be
            # in the weights before the next loss shows it.
            metrics[f"{name}_gradient_norm"] = norm
        return metrics

    def losses(self, start: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the losses of the actor and of all critics together, and metrics.

        Args:
            start: Posterior states `[n, S]`, which get no gradient.
        """
        config = self.config
        states = self.imagine(start)
        rewards, values = self.model.reward(states), self.critic(states)
        discounts = torch.full_like(rewards, config.discount)
        if knows(self.model, Ending):
            discounts = discounts * self.model.continues(states)
        if config.last == "bootstrap":
            following = values[:, 1:]
            states, rewards = states[:, :-1], rewards[:, :-1]
            values, discounts = values[:, :-1], discounts[:, :-1]
        else:
            following = torch.cat([values[:, 1:], values[:, -1:]], dim=1)
        returns = lambda_returns(rewards, following, discounts, config.lambda_)
        weights = torch.ones_like(returns)
        if config.weigh:
            weights = torch.cat([weights[:, :1], discounts[:, :-1]], dim=1)
            weights = weights.cumprod(dim=1).detach()
        actor_loss = -(weights * returns).mean()
        states, target = states.detach(), returns.detach()
        errors = [critic(states) - target for critic in self.critics]
        critic_losses = [(weights * 0.5 * each.square()).mean() for each in errors]
        critic_loss = torch.stack(critic_losses).sum()
        with torch.no_grad():
            spread = self.actor.normal(start)[1].mean()
        metrics = {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "imagined_return": returns.mean(),
            "imagined_value": values.mean(),
            "actor_std": spread,
        }
        return actor_loss, critic_loss, {k: v.detach() for k, v in metrics.items()}

    def imagine(self, start: Tensor) -> Tensor:
        """Return the states `[n, H or H + 1, S]` that the actor meets in the model."""
        state, states = start, [start] if self.config.from_posterior else []
        for _ in range(self.config.horizon):
            # What an action is worth is learnt through its consequences alone, not
            # through the states that led to it: as in the authors' code.
            action = self.actor.sample(
                state.detach(), self._noise(state, self.actor.action_dim)
            )
            if hasattr(self.model, "sample_step"):
                noise = self._noise(state, self.model.state_size)
                state = self.model.sample_step(state, action, noise)
            else:
                state = self.model.step(state, action)
            states.append(state)
        return torch.stack(states, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Return actor, critic, their optimisers and the random state."""
        return {
            "actor": self.actor.state_dict(),
            "critic": self.critic.state_dict(),
            "others": self.critics[1:].state_dict(),
            "optimizers": [each.state_dict() for each in self.optimizers],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` returned."""
        self.actor.load_state_dict(state["actor"])
        self.critic.load_state_dict(state["critic"])
        if "others" in state:  # not in checkpoints of before there were any
            self.critics[1:].load_state_dict(state["others"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            # Adam would go on in the very tensors that it is given.
            optimizer.load_state_dict(deepcopy(saved))
        self.generator.set_state(state["generator"])

    def _noise(self, like: Tensor, size: int) -> Tensor:
        shape = (*like.shape[:-1], size)
        return torch.randn(
            shape, generator=self.generator, device=like.device, dtype=like.dtype
        )
