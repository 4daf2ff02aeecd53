"""Latent transitions of an RSSM: with and without a deterministic path.

Both answer the same four questions, so that `RSSM` does not know which one it has:
how the latent advances under an action, what the prior believes then, what the
posterior believes after an observation, and the Jacobian of the prior mean.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffplan.models._networks import MLP, activation
from diffplan.models._recurrent import GRUCell

Gaussian = tuple[Tensor, Tensor]
"""Mean and standard deviation, each `[…, K]`."""


class PosteriorHead(nn.Module):
    """MLP whose first layer sees a latent feature and an observation separately.

    The observation's share of the first layer needs no latent: `project` computes it
    for a whole sequence in one product, outside the loop over time.

    Args:
        feature_size: Size of the latent feature.
        observation_size: Size of what is known of the observation.
        sizes: Width of each hidden layer and of the output.
        activations: Name of the activation after each layer.
    """

    def __init__(
        self,
        feature_size: int,
        observation_size: int,
        sizes: list[int],
        activations: list[str],
    ) -> None:
        super().__init__()
        self.from_feature = nn.Linear(feature_size, sizes[0])
        self.from_observation = nn.Linear(observation_size, sizes[0], bias=False)
        self.activation = activation(activations[0])
        self.rest = MLP(sizes, activations[1:])

    def project(self, observation: Tensor) -> Tensor:
        """Return the observation's share `[…, sizes[0]]` of the first layer."""
        return self.from_observation(observation)

    def forward(self, feature: Tensor, projected: Tensor) -> Tensor:
        """Outputs `[…, sizes[-1]]`."""
        before = self.from_feature(feature) + projected
        return self.rest(self.activation.function(before))


class Transition(nn.Module, ABC):
    """How a latent state [stochastic (K), belief (N)] moves and is corrected.

    Args:
        stochastic_size: K.
        belief_size: N; zero for a transition without deterministic path.
        min_std: Added to every standard deviation.
    """

    def __init__(self, stochastic_size: int, belief_size: int, min_std: float) -> None:
        super().__init__()
        self.stochastic_size = stochastic_size
        self.belief_size = belief_size
        self.min_std = min_std

    @abstractmethod
    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        """Feature `[…, F]` of the next step before any observation of it."""

    @abstractmethod
    def prior(self, feature: Tensor) -> Gaussian:
        """Belief about the next stochastic state without an observation."""

    @abstractmethod
    def project(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Part of `posterior` that needs no latent state."""

    @abstractmethod
    def posterior(self, feature: Tensor, projected: Tensor) -> Gaussian:
        """Belief about the next stochastic state given an observation."""

    @abstractmethod
    def join(self, stochastic: Tensor, feature: Tensor) -> Tensor:
        """Planning state `[…, K + N]` from its stochastic part and the feature."""

    @abstractmethod
    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Next prior-mean state `[…, S]`, A `[…, S, S]` and B `[…, S, A]`."""

    def _gaussian(self, parameters: Tensor) -> Gaussian:
        mean, raw = parameters.chunk(2, dim=-1)
        return mean, F.softplus(raw) + self.min_std


class RecurrentTransition(Transition):
    """Deterministic GRU path with a stochastic state read off it (PlaNet).

    Dense([stochastic, action]) → GRU → belief; prior = head(belief); posterior =
    head([belief, embedding]). Hafner et al. 2019, arXiv:1811.04551, equation 4.

    Args:
        stochastic_size: K.
        belief_size: N.
        action_dim: A.
        embedding_size: Size of an embedded observation.
        hidden_size: Width of the dense layers.
        activation: Name of their activation.
        min_std: Added to every standard deviation.
    """

    def __init__(
        self,
        stochastic_size: int,
        belief_size: int,
        action_dim: int,
        embedding_size: int,
        hidden_size: int,
        activation: str,
        min_std: float,
    ) -> None:
        super().__init__(stochastic_size, belief_size, min_std)
        self.inputs = MLP([stochastic_size + action_dim, hidden_size], [activation])
        self.cell = GRUCell(hidden_size, belief_size)
        outputs = 2 * stochastic_size
        self.prior_head = MLP.head([belief_size, hidden_size, outputs], activation)
        self.posterior_head = PosteriorHead(
            belief_size, embedding_size, [hidden_size, outputs], [activation, "linear"]
        )

    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        """Next belief `[…, N]`."""
        stochastic, belief = state.tensor_split([self.stochastic_size], dim=-1)
        inputs = self.inputs(torch.cat([stochastic, action], dim=-1))
        return self.cell(inputs, belief)

    def prior(self, feature: Tensor) -> Gaussian:
        """Prior read off the belief."""
        return self._gaussian(self.prior_head(feature))

    def project(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Embedding's share of the posterior; the belief has seen the action."""
        return self.posterior_head.project(embedding)

    def posterior(self, feature: Tensor, projected: Tensor) -> Gaussian:
        """Posterior from belief and embedding."""
        return self._gaussian(self.posterior_head(feature, projected))

    def join(self, stochastic: Tensor, feature: Tensor) -> Tensor:
        """[stochastic, belief]."""
        return torch.cat([stochastic, feature], dim=-1)

    def linearize(
        self, state: Float[Tensor, "*batch S"], action: Float[Tensor, "*batch A"]
    ) -> tuple[
        Float[Tensor, "*batch S"],
        Float[Tensor, "*batch S S"],
        Float[Tensor, "*batch S A"],
    ]:
        """Chain rule through dense layer, GRU and prior head, in matrix products.

        A and B are views of one tensor `[…, S, S + A]`, which saves two copies.
        """
        size = self.stochastic_size
        stochastic, belief = state.tensor_split([size], dim=-1)
        inputs, by_pair = self.inputs.linearize(torch.cat([stochastic, action], dim=-1))
        after, by_input, by_belief = self.cell.linearize(inputs, belief)
        by_pair = by_input @ by_pair
        by_stochastic, by_action = by_pair.tensor_split([size], dim=-1)
        belief_rows = torch.cat([by_stochastic, by_belief, by_action], dim=-1)
        mean, by_after = self.prior_head.linearize(after, outputs=size)
        rows = torch.cat([by_after @ belief_rows, belief_rows], dim=-2)
        columns = state.shape[-1]
        following = torch.cat([mean, after], dim=-1)
        return following, rows[..., :columns], rows[..., columns:]


class StochasticTransition(Transition):
    """No deterministic path: the stochastic state is all there is.

    LatCo's ablation "no deterministic latent" (Rybkin et al. 2021, arXiv:2106.13229,
    table 3): prior and posterior are MLPs with two hidden layers, the second one
    sigmoid as in the released code. That code feeds a prior *sample* to the
    posterior; here it is the prior mean, so that `observe` needs one noise only.

    Args:
        stochastic_size: K.
        action_dim: A.
        embedding_size: Size of an embedded observation.
        hidden_size: Width of the dense layers; 400 in the released code.
        activation: Name of the first layer's activation.
        min_std: Added to every standard deviation.
    """

    def __init__(
        self,
        stochastic_size: int,
        action_dim: int,
        embedding_size: int,
        hidden_size: int,
        activation: str,
        min_std: float,
    ) -> None:
        super().__init__(stochastic_size, 0, min_std)
        widths = [hidden_size, hidden_size, 2 * stochastic_size]
        names = [activation, "sigmoid", "linear"]
        self.prior_head = MLP([stochastic_size + action_dim, *widths], names)
        self.posterior_head = PosteriorHead(
            stochastic_size, embedding_size + action_dim, widths, names
        )

    def advance(self, state: Tensor, action: Tensor) -> Tensor:
        """Mean and raw standard deviation `[…, 2K]` of the prior."""
        return self.prior_head(torch.cat([state, action], dim=-1))

    def prior(self, feature: Tensor) -> Gaussian:
        """Prior that `advance` computed."""
        return self._gaussian(feature)

    def project(self, embedding: Tensor, action: Tensor) -> Tensor:
        """Share of embedding and action in the posterior."""
        return self.posterior_head.project(torch.cat([embedding, action], dim=-1))

    def posterior(self, feature: Tensor, projected: Tensor) -> Gaussian:
        """Posterior from prior mean, embedding and action."""
        mean = feature[..., : self.stochastic_size]
        return self._gaussian(self.posterior_head(mean, projected))

    def join(self, stochastic: Tensor, feature: Tensor) -> Tensor:
        """Return the stochastic state itself."""
        return stochastic

    def linearize(
        self, state: Float[Tensor, "*batch S"], action: Float[Tensor, "*batch A"]
    ) -> tuple[
        Float[Tensor, "*batch S"],
        Float[Tensor, "*batch S S"],
        Float[Tensor, "*batch S A"],
    ]:
        """Jacobian of the prior's MLP, mean rows only."""
        pair = torch.cat([state, action], dim=-1)
        mean, rows = self.prior_head.linearize(pair, outputs=self.stochastic_size)
        columns = state.shape[-1]
        return mean, rows[..., :columns], rows[..., columns:]


def latent_transition(config: Mapping[str, Any]) -> Transition:
    """Return the transition that an RSSM's configuration asks for."""
    names = ("action_dim", "embedding_size", "hidden_size", "activation", "min_std")
    shared = {name: config[name] for name in names}
    if config["belief_size"] == 0:
        return StochasticTransition(config["state_size"], **shared)
    return RecurrentTransition(config["state_size"], config["belief_size"], **shared)
