"""An actor and a critic on a planning state, as Dreamer has them."""

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffplan._checks import require_count, require_positive, require_shape
from diffplan.constraints._box import BoxLike, as_box, require_bounded
from diffplan.functional._random import standard_normal
from diffplan.models._initialization import initialize_like_keras
from diffplan.models._networks import MLP, MOST_LAYERS

_Mode = Literal["mean", "densest"]
"""What stands for the most likely action of a tanh-normal distribution."""

_TRIED = 100
"""How many samples `densest` looks at, as Dreamer does."""


class Actor(nn.Module):
    """Actions of a normal distribution that tanh brings into a box (Dreamer's policy).

    u = centre + half width · tanh(z), z ~ N(m(x), s(x)²), m = 5 tanh(m̂ / 5) and
    s = softplus(ŝ + c) + 1e-4, where c gives `initial_std` for ŝ = 0.

    Called, it returns one action for each state: a policy as any other.

    Args:
        state_dim: S.
        action_space: A box `[A]` with finite bounds.
        hidden_size: Width of the hidden layers.
        layers: How many.
        activation: "elu" or "relu".
        initial_std: Of z, before training.
        mode: What calling it returns: the action of the "mean" of z, or the "densest"
            of 100 samples, which Dreamer's agent executes in tests. The samples are the
            same for every state.

    Raises:
        ArgumentError: a size is out of range, or a bound infinite.

    References:
        Hafner et al. 2020, "Dream to control" (arXiv:1912.01603), appendix A; the
        numbers that it does not give are those of the authors' code.

    Example:
        >>> import diffplan as dp
        >>> actor = Actor(6, dp.Box([-1.0, 0.0], [1.0, 2.0]), hidden_size=16)
        >>> actor(torch.zeros(4, 6)).shape
        torch.Size([4, 2])
    """

    MEAN_SCALE = 5.0
    MIN_STD = 1e-4
    center: Tensor
    half_width: Tensor

    def __init__(
        self,
        state_dim: int,
        action_space: BoxLike,
        *,
        hidden_size: int = 400,
        layers: int = 4,
        activation: str = "elu",
        initial_std: float = 5.0,
        mode: _Mode = "mean",
    ) -> None:
        super().__init__()
        self.state_dim = require_count("state_dim", state_dim)
        box = require_bounded("action_space", as_box("action_space", action_space))
        self.mode: _Mode = mode
        self.config: dict[str, Any] = {
            "state_dim": state_dim,
            "action_space": {"low": box.low.tolist(), "high": box.high.tolist()},
            "hidden_size": hidden_size,
            "layers": layers,
            "activation": activation,
            "initial_std": initial_std,
            "mode": mode,
        }
        self.action_dim = box.dim
        weight = torch.get_default_dtype()
        self.register_buffer("center", box.center.to(weight))
        self.register_buffer("half_width", box.scale.to(weight))
        initial = require_positive("initial_std", initial_std)
        self._shift = math.log(math.expm1(initial))
        self.network = _network(state_dim, 2 * box.dim, hidden_size, layers, activation)
        self.apply(initialize_like_keras)

    def normal(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of z, `[…, A]`."""
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        mean, spread = self.network(state).chunk(2, dim=-1)
        mean = self.MEAN_SCALE * torch.tanh(mean / self.MEAN_SCALE)
        return mean, F.softplus(spread + self._shift) + self.MIN_STD

    def forward(self, state: Tensor) -> Tensor:
        """Return the action `[…, A]` of states `[…, S]`; see `mode`."""
        mean, std = self.normal(state)
        if self.mode == "mean":
            return self._inside(mean)
        key = torch.zeros((), dtype=torch.int64, device=state.device)
        noise = standard_normal(key, (_TRIED, self.action_dim), state)
        tried = mean[..., None, :] + std[..., None, :] * noise
        density = _log_density(tried, mean[..., None, :], std[..., None, :])
        chosen = density.argmax(dim=-1)[..., None, None]
        best = torch.take_along_dim(tried, chosen, dim=-2).squeeze(-2)
        return self._inside(best)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(self, state: Tensor) -> Tensor: ...  # noqa: D102

    def sample(self, state: Tensor, noise: Tensor) -> Tensor:
        """Return sampled actions `[…, A]`, differentiable in weights and state.

        Args:
            state: `[…, S]`.
            noise: Standard normal draw `[…, A]`.
        """
        mean, std = self.normal(state)
        return self._inside(mean + std * noise)

    def log_prob(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the log-density `[…]` of actions `[…, A]` inside the box.

        An action on a bound, where the density has no value, counts as one that is
        closer to it than the numbers can tell.
        """
        mean, std = self.normal(state)
        limit = 1 - torch.finfo(action.dtype).eps
        share = ((action - self.center) / self.half_width).clamp(-limit, limit)
        density = _log_density(torch.atanh(share), mean, std)
        return density - self.half_width.log().sum()

    def _inside(self, z: Tensor) -> Tensor:
        center, half_width = self.center.to(z.dtype), self.half_width.to(z.dtype)
        return center + half_width * torch.tanh(z)


class Critic(nn.Module):
    """The return that is still to come, of a planning state (Dreamer's value).

    Args:
        state_dim: S.
        hidden_size: Width of the hidden layers.
        layers: How many.
        activation: "elu" or "relu".

    Raises:
        ArgumentError: a size is out of range.

    Example:
        >>> Critic(6, hidden_size=16)(torch.zeros(4, 3, 6)).shape
        torch.Size([4, 3])
    """

    def __init__(
        self,
        state_dim: int,
        *,
        hidden_size: int = 400,
        layers: int = 3,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.state_dim = require_count("state_dim", state_dim)
        self.config: dict[str, Any] = {
            "state_dim": state_dim,
            "hidden_size": hidden_size,
            "layers": layers,
            "activation": activation,
        }
        self.network = _network(state_dim, 1, hidden_size, layers, activation)
        self.apply(initialize_like_keras)

    def forward(self, state: Tensor) -> Tensor:
        """Return the value `[…]` of states `[…, S]`."""
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        return self.network(state).squeeze(-1)

    if TYPE_CHECKING:  # that of `nn.Module` returns Any

        def __call__(self, state: Tensor) -> Tensor: ...  # noqa: D102


def _network(
    inputs: int, outputs: int, hidden_size: int, layers: int, activation: str
) -> MLP:
    hidden = [require_count("hidden_size", hidden_size)] * require_count(
        "layers", layers, 0, MOST_LAYERS
    )
    return MLP.head([inputs, *hidden, outputs], activation)


def _log_density(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-density `[…]` of tanh z, z ~ N(mean, std²), all `[…, A]`."""
    normal = -0.5 * ((z - mean) / std).square() - std.log() - math.log(2 * math.pi) / 2
    # log(1 - tanh² z), without the digits that 1 - tanh² loses far from zero
    slope = 2 * (math.log(2) - z - F.softplus(-2 * z))
    return (normal - slope).sum(dim=-1)
