"""Proximal policy optimisation: learn from fresh experience without leaving it far.

Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv:1707.06347), with
advantages of Schulman et al. 2016 (arXiv:1506.02438). The policy is any module that
gives a distribution of actions and a value, such as one whose mean is the first action
of a differentiable planner.

A turn: let the policy act, find advantages by `functional.generalized_advantages`, put
them into `Experience`, call `PPO.update`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from diffplan._checks import (
    require_at_least,
    require_count,
    require_positive,
    require_share,
)
from diffplan._kinds import OrInfinite
from diffplan.errors import ArgumentError, NonFiniteError, ShapeError

_SMALLEST_VARIANCE = 1e-8


@runtime_checkable
class Policy(Protocol):
    """What PPO improves: `distribution, value = policy(*inputs)`.

    The inputs are whatever the policy acts on, each `[n, …]`; the distribution is of
    actions `[n, A]` and gives one log-density for each (`Independent`); the value is
    `[n]`.
    """

    def __call__(self, *inputs: Tensor) -> tuple[Distribution, Tensor]:
        """Return the distribution of actions and the value of each input."""
        ...


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; the defaults are the field's for continuous control.

    Those of the reference implementations (OpenAI baselines, and the one that Amos and
    Yarats name), without their falling learning rate.

    Attributes:
        clip: How far the probability of an action may change before that pays no more;
            the value's change has the same bound.
        clip_value: Whether it has.
        passes: Over the experience of one update.
        minibatches: Each pass is cut into as many.
        discount: γ of the return.
        gae_lambda: λ of the advantages: 0 trusts the value, 1 the rewards.
        learning_rate: Of Adam, for parameter groups that bring none of their own.
        epsilon: Of Adam.
        value_scale: Weight of the value's error.
        entropy_scale: Weight of the entropy that is rewarded.
        gradient_clip: Largest Euclidean norm of all gradients together.
        normalize_advantages: Whether to bring them to mean 0 and deviation 1.
    """

    clip: OrInfinite = 0.2
    clip_value: bool = True
    passes: int = 10
    minibatches: int = 32
    discount: float = 0.99
    gae_lambda: float = 0.95
    learning_rate: float = 3e-4
    epsilon: float = 1e-5
    value_scale: float = 0.5
    entropy_scale: float = 0.0
    gradient_clip: OrInfinite = 0.5
    normalize_advantages: bool = True

    def __post_init__(self) -> None:
        for name in ("clip", "learning_rate", "epsilon", "gradient_clip"):
            require_positive(name, getattr(self, name))
        for name in ("passes", "minibatches"):
            require_count(name, getattr(self, name))
        for name in ("value_scale", "entropy_scale"):
            require_at_least(name, getattr(self, name), 0.0)
        for name in ("discount", "gae_lambda"):
            require_share(name, getattr(self, name))


def _clipped_surrogate(
    log_ratio: Float[Tensor, "n"], advantages: Float[Tensor, "n"], clip: float
) -> Tensor:
    """Return -mean min(ρ A, clamp(ρ, 1 - clip, 1 + clip) A), to be minimised.

    Where an action's probability has already moved by `clip` to its advantage, moving
    it on pays nothing: the gradient is zero.

    Args:
        log_ratio: log ρ, the log-density now less that when the action was taken.
        advantages: A.
        clip: At least 0.

    References:
        Schulman et al. 2017 (arXiv:1707.06347), equation 7.

    Example:
        >>> _clipped_surrogate(torch.tensor([1.5]).log(), torch.ones(1), clip=0.2)
        tensor(-1.2000)
    """
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantages, bounded * advantages).mean()


def _value_error(
    values: Float[Tensor, "n"],
    returns: Float[Tensor, "n"],
    old_values: Float[Tensor, "n"],
    clip: float | None = None,
) -> Tensor:
    """Return ½ mean (V - R)², or with a bound on how far V moves from its old value.

    With `clip` the larger one of the errors of V and of V_old + clamp(V - V_old, ±clip)
    counts, as in the reference implementations (the paper has the plain error).

    Args:
        values: V.
        returns: R.
        old_values: V when the experience was made.
        clip: The bound; None sets none.
    """
    error = (values - returns).square()
    if clip is not None:
        bounded = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (bounded - returns).square())
    return 0.5 * error.mean()


@dataclass(frozen=True)
class Experience:
    """What the policy met and did: n decisions, of any number of episodes.

    Attributes:
        inputs: What it acted on, each `[n, …]`: a policy that draws random numbers
            while it thinks gets those here again.
        actions: `[n, A]` as drawn, before anything clipped them.
        log_probs: `[n]`, log-densities of the actions when they were taken.
        values: `[n]`, predicted then.
        advantages: `[n]`.

    Raises:
        ShapeError: n differs.
    """

    inputs: tuple[Tensor, ...]
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor

    def __post_init__(self) -> None:
        count = self.actions.shape[0]
        named = [(f"inputs[{i}]", value) for i, value in enumerate(self.inputs)]
        for name in ("log_probs", "values", "advantages"):
            value = getattr(self, name)
            named.append((name, value))
            if value.dim() != 1:
                raise ShapeError(f"{name}: expected [{count}], got {list(value.shape)}")
        for name, value in named:
            if value.shape[:1] != (count,):
                raise ShapeError(
                    f"{name}: expected [{count}, …], one for each action, got "
                    f"{list(value.shape)}"
                )

    def __len__(self) -> int:
        return self.actions.shape[0]

    def __getitem__(self, index: Tensor) -> "Experience":
        """Return the chosen decisions."""
        rest = {item.name: getattr(self, item.name)[index] for item in fields(self)[1:]}
        return Experience(tuple(value[index] for value in self.inputs), **rest)

    @classmethod
    def cat(cls, pieces: Sequence["Experience"]) -> "Experience":
        """Join the experience of several episodes.

        Raises:
            ArgumentError: there is none.
        """
        if not pieces:
            raise ArgumentError("pieces: expected at least one")
        inputs = zip(*(piece.inputs for piece in pieces), strict=True)
        rest = {
            item.name: torch.cat([getattr(piece, item.name) for piece in pieces])
            for item in fields(cls)[1:]
        }
        return cls(tuple(torch.cat(each) for each in inputs), **rest)


class PPO:
    """Improves a policy on the experience that it has just made.

    Only the parameters that it is given receive gradients; all others stay as they
    are, bit for bit.

    Args:
        policy: See `Policy`.
        config: The settings.
        parameters: What is learnt: parameters of the policy, or groups of them as
            `torch.optim` takes them, each with an `lr` of its own. None: all.

    Example:
        >>> class Constant(nn.Module):
        ...     def __init__(self) -> None:
        ...         super().__init__()
        ...         self.mean = nn.Parameter(torch.zeros(1))
        ...
        ...     def forward(self, state: Tensor) -> tuple[Distribution, Tensor]:
        ...         normal = torch.distributions.Normal(
        ...             self.mean.expand(len(state), 1), 1.0
        ...         )
        ...         return torch.distributions.Independent(normal, 1), state[:, 0]
        >>> policy, state = Constant(), torch.zeros(4, 1)
        >>> actions = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]])
        >>> before, value = policy(state)
        >>> ppo = PPO(policy, PPOConfig(minibatches=1))
        >>> experience = Experience(
        ...     (state,),
        ...     actions,
        ...     before.log_prob(actions).detach(),
        ...     value,
        ...     actions[:, 0],
        ... )
        >>> metrics = ppo.update(experience, torch.Generator().manual_seed(0))
        >>> bool(policy.mean > 0)
        True
    """

    def __init__(
        self,
        policy: Policy,
        config: PPOConfig,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]] | None = None,
    ) -> None:
        if parameters is None:
            if not isinstance(policy, nn.Module):
                raise ArgumentError(
                    "parameters: expected some, the policy is no module"
                )
            parameters = policy.parameters()
        self.policy, self.config = policy, config
        self.optimizer = torch.optim.Adam(
            parameters, lr=config.learning_rate, eps=config.epsilon
        )
        groups = self.optimizer.param_groups
        self.learnt: list[nn.Parameter] = [p for g in groups for p in g["params"]]

    def update(
        self, experience: Experience, generator: torch.Generator
    ) -> dict[str, float]:
        """Make the passes over some experience; return the mean of each metric.

        Args:
            experience: Of the policy as it is now.
            generator: Shuffles.

        Returns:
            `policy_loss`, `value_loss`, `kl` (an estimate of how far the policy has
            moved, nats), `clipped` (share of decisions beyond the bound),
            `gradient_norm` (before clipping) and, if it counts, `entropy`.

        Raises:
            NonFiniteError: a gradient is NaN or infinite; the policy is as it was
                before that minibatch.
        """
        advantages = experience.advantages
        if self.config.normalize_advantages and len(experience) > 1:
            spread = advantages.std() + self.config.epsilon
            advantages = (advantages - advantages.mean()) / spread
        count = len(experience)
        sums: dict[str, Tensor] = {}
        for _ in range(self.config.passes):
            order = torch.randperm(count, generator=generator, device=generator.device)
            parts = min(self.config.minibatches, count)  # `chunk` may make fewer
            for part in order.to(advantages.device).tensor_split(parts):
                metrics = self._step(experience[part], advantages[part])
                for name, value in metrics.items():
                    weighted = len(part) * value.double()
                    sums[name] = sums[name] + weighted if name in sums else weighted
        total = count * self.config.passes
        return {name: float(value) / total for name, value in sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimiser's state; the policy's is its own."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        # Adam would go on in the very tensors that it is given.
        self.optimizer.load_state_dict(deepcopy(dict(state)))

    def _step(self, part: Experience, advantages: Tensor) -> dict[str, Tensor]:
        config = self.config
        distribution, values = self.policy(*part.inputs)
        log_ratio = distribution.log_prob(part.actions) - part.log_probs
        policy_loss = _clipped_surrogate(log_ratio, advantages, config.clip)
        returns = part.advantages + part.values
        bound = config.clip if config.clip_value else None
        value_loss = _value_error(values, returns, part.values, bound)
        loss = policy_loss + config.value_scale * value_loss
        ratio = log_ratio.detach().exp()
        metrics = {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "kl": (ratio - 1 - log_ratio).mean(),
            "clipped": ((ratio - 1).abs() > config.clip).to(ratio.dtype).mean(),
        }
        if config.entropy_scale > 0:
            metrics["entropy"] = distribution.entropy().mean()
            loss = loss - config.entropy_scale * metrics["entropy"]
        metrics["gradient_norm"] = self._descend(loss)
        return {name: value.detach() for name, value in metrics.items()}

    def _descend(self, loss: Tensor) -> Tensor:
        """Make one step of Adam; return the norm of the gradient before clipping."""
        gradients = torch.autograd.grad(loss, self.learnt, allow_unused=True)
        for parameter, gradient in zip(self.learnt, gradients, strict=True):
            parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_(self.learnt, self.config.gradient_clip)
        if not math.isfinite(float(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(
                "PPO.update: expected finite gradients, got NaN or infinity: lower the "
                "learning rate, or look at rewards and values"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class RewardScale:
    """Divides rewards by the standard deviation of the discounted return so far.

    So that one learning rate of the value suits all tasks. What is measured is
    R_t = γ R_{t-1} + r_t along each episode, over all episodes that were seen, as in
    the reference implementations (Engstrom et al. 2020, "Implementation matters in deep
    policy gradients", arXiv:2005.12729, section 3).

    Args:
        discount: γ.

    Example:
        >>> scale = RewardScale(discount=0.0)
        >>> scale.observe(torch.tensor([1.0, 3.0]))
        >>> scale.apply(torch.tensor([2.0]))
        tensor([2.])
    """

    def __init__(self, discount: float = 0.99) -> None:
        require_share("discount", discount)
        self.discount = discount
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def observe(self, rewards: Float[Tensor, "T"]) -> None:
        """Take in the rewards of one episode."""
        running = 0.0
        for reward in rewards.tolist():
            running = self.discount * running + reward
            self._count += 1
            before = running - self._mean
            self._mean += before / self._count
            self._squares += before * (running - self._mean)

    def apply(self, rewards: Tensor) -> Tensor:
        """Return the scaled rewards; before the first episode they are unchanged."""
        if self._count == 0:
            return rewards
        variance = self._squares / self._count
        return rewards / math.sqrt(variance + _SMALLEST_VARIANCE)

    def state_dict(self) -> dict[str, float]:
        """Return all that was taken in."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Continue from what `state_dict` returned."""
        self._count = int(state["count"])
        self._mean, self._squares = float(state["mean"]), float(state["squares"])
