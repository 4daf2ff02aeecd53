"""The recurrent state-space model of PlaNet, Dreamer and LatCo.

From pixels or sensor values it learns a latent state with a stochastic part and a
deterministic memory (the *belief*), a transition, a decoder and a reward.
"""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Normal

from diffplan._checks import is_traced, require_leading, require_shape
from diffplan.models._initialization import initialize_like_keras
from diffplan.models._losses import floored_kl, gaussian_kl, unit_gaussian_nll
from diffplan.models._model_file import read_model, write_model
from diffplan.models._networks import MLP
from diffplan.models._observations import MINIMUM_OBSERVATION_STD, observation_model
from diffplan.models._own_steps import OwnSteps
from diffplan.models._rssm_config import checked_rssm_config
from diffplan.models._transition import latent_transition
from diffplan.models.base import LossRecord, SequenceBatch, WorldModel


class RSSM(OwnSteps, WorldModel):
    """Recurrent state-space model (Hafner et al. 2019, arXiv:1811.04551).

    The planning state is [stochastic, belief], S = 30 + 200 numbers by default. The
    defaults are LatCo's model (Rybkin et al. 2021, arXiv:2106.13229): from pixels
    with four-dimensional actions it has 5,296,420 parameters. PlaNet's differ:
    `activation="relu", reward_hidden=200, free_nats_on="step",
    initialization="torch", image_bits=5`, and its squared errors have no ½, hence
    `observation_scale=2, reward_scale=2`.

    Args:
        observation_shape: `(3, 64, 64)` for images, `(D,)` for vectors.
        action_dim: A.
        belief_size: Size of the deterministic memory. Zero removes it: LatCo's
            ablation "no deterministic latent" (whose `hidden_size` is 400).
        state_size: Size K of the stochastic part.
        embedding_size: Size of an encoded observation.
        hidden_size: Width of the dense layers of transition and posterior.
        activation: Of dense layers: "elu" or "relu". Convolutions always use ReLU.
        reward_layers: Number of hidden layers of the reward head.
        reward_hidden: Width of these layers.
        vector_layers: Hidden layers of encoder and decoder, for vectors.
        vector_hidden: Width of these layers.
        image_depth: Channels of the first convolution, for images.
        image_bits: Of images, 1 … 8. Fewer than 8 have noise, see `dequantize`.
        free_nats: Divergence that costs nothing, nats. Keep it below the divergence
            that the task needs, or the prior learns nothing.
        free_nats_on: "mean" over batch and time, or every "step".
        kl_scale: Weight of the divergence.
        observation_scale: Weight of ½‖error‖² of observations, in network units.
        reward_scale: Weight of ½ error² of rewards.
        min_std: Added to every standard deviation.
        initialization: "glorot" uniform kernels, orthogonal recurrent kernel and zero
            biases (LatCo, Dreamer), or "torch" defaults (PlaNet in PyTorch). Weights
            are drawn from torch's global generator, as in every `nn.Module`.

    Raises:
        ArgumentError: a size is out of its range or a name does not exist.

    Example:
        >>> model = RSSM((5,), action_dim=2, belief_size=32, hidden_size=32)
        >>> state = model.initial_state((8,))
        >>> state = model.observe(state, torch.zeros(8, 2), torch.randn(8, 5))
        >>> model.reward(model.step(state, torch.zeros(8, 2))).shape
        torch.Size([8])
    """

    BELIEF_STD = 1e-6
    """Standard deviation that `predict` gives to the belief, which is certain.

    Zero is none for `Normal`; Gaussian LatCo has 1e-6 for its known first state.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        action_dim: int,
        *,
        belief_size: int = 200,
        state_size: int = 30,
        embedding_size: int = 1024,
        hidden_size: int = 200,
        activation: str = "elu",
        reward_layers: int = 2,
        reward_hidden: int = 400,
        vector_layers: int = 2,
        vector_hidden: int = 200,
        image_depth: int = 32,
        image_bits: int = 8,
        free_nats: float = 3.0,
        free_nats_on: Literal["mean", "step"] = "mean",
        kl_scale: float = 1.0,
        observation_scale: float = 1.0,
        reward_scale: float = 1.0,
        min_std: float = 0.1,
        initialization: Literal["glorot", "torch"] = "glorot",
    ) -> None:
        # Before anything else is named here: all arguments, to be saved with weights.
        config = {
            name: value
            for name, value in locals().items()
            if name not in ("self", "__class__")
        }
        super().__init__()
        self.config: dict[str, Any] = checked_rssm_config(config)
        self.action_dim: int = self.config["action_dim"]
        self.state_size: int = self.config["state_size"]
        self.belief_size: int = self.config["belief_size"]
        self.image_bits: int = self.config["image_bits"]
        self.state_dim = self.state_size + self.belief_size
        self.free_nats, self.free_nats_on = free_nats, free_nats_on
        self.kl_scale = kl_scale
        self.observation_scale, self.reward_scale = observation_scale, reward_scale
        self.observations = observation_model(self.config)
        self.transition = latent_transition(self.config)
        hidden = (self.config["reward_hidden"],) * self.config["reward_layers"]
        self.reward_head = MLP.head([self.state_dim, *hidden, 1], activation)
        if initialization == "glorot":
            self.apply(initialize_like_keras)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Shape of one observation."""
        return self.observations.shape

    def fit_normalizer(
        self, observations: Tensor, minimum_std: float = MINIMUM_OBSERVATION_STD
    ) -> None:
        """Set the scale of vector observations from data; once, before training.

        Args:
            observations: `[…, D]`, finite.
            minimum_std: A component that moves less in the data is only centred.

        Raises:
            ArgumentError: the model sees images, whose scale is fixed.
            ShapeError: the last dimension is not D, or there is no row.
            NonFiniteError: NaN or infinity in the data.
        """
        self.observations.fit(observations, minimum_std)

    def step(self, state: Tensor, action: Tensor) -> Tensor:
        """Next state `[…, S]` with the prior's mean: the dynamics for planning.

        Raises:
            ShapeError: sizes differ from the model's, or leading dimensions differ.
        """
        feature = self._advance(state, action)
        mean, _ = self.transition.prior(feature)
        return self.transition.join(mean, feature)

    def sample_step(self, state: Tensor, action: Tensor, noise: Tensor) -> Tensor:
        """Next state `[…, S]` sampled from the prior.

        Args:
            state: `[…, S]`.
            action: `[…, A]`.
            noise: Standard normal draw `[…, K]`.
        """
        feature = self._advance(state, action)
        self._check_noise(noise, state)
        mean, std = self.transition.prior(feature)
        return self.transition.join(mean + std * noise, feature)

    def predict(self, state: Tensor, action: Tensor) -> Normal:
        """Distribution of the next state `[…, S]`.

        The belief is a function of state and action: its standard deviation is the
        constant `RSSM.BELIEF_STD`.
        """
        feature = self._advance(state, action)
        mean, std = self.transition.prior(feature)
        certain = torch.full_like(feature, self.BELIEF_STD)
        location = self.transition.join(mean, feature)
        return Normal(location, self.transition.join(std, certain), validate_args=False)

    def linearize(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`step` and its analytic Jacobian, by plain differentiable operations.

        Returns:
            Next state `[…, S]`, Jacobian with respect to the state `[…, S, S]` and to
            the action `[…, S, A]`.
        """
        self._check_pair(state, action)
        return self.transition.linearize(state, action)

    def dequantize(self, observation: Tensor, noise: Tensor | None) -> Tensor:
        """Images of `image_bits` bits k in [0, 1], ⌊x / 2^(8-k)⌋ / 2^k + noise / 2^k.

        As PlaNet sees them. What is no uint8 image, or all its 8 bits, gets no noise.

        Args:
            observation: `[…, *observation_shape]`.
            noise: U(0, 1) draw of that shape; fresh at each look, in agents and in
                training. None stands for its mean, ½, as in whatever else sees images.
        """
        self.observations.check(observation, finite=False)
        return self.observations.dequantize(observation, noise)

    def scale(self, observation: Tensor) -> Tensor:
        """Observations in network units, in which they are about one in size."""
        return self.observations.scale(observation)

    def unscale(self, value: Tensor) -> Tensor:
        """Observations in the environment's units, the inverse of `scale`."""
        return self.observations.unscale(value)

    def encode_observation(self, observation: Tensor) -> Tensor:
        """Embedding `[…, E]` of observations in the environment's units."""
        self.observations.check(observation, finite=False)
        return self.observations.encoder(self.observations.scale(observation))

    def decode(self, state: Tensor) -> Tensor:
        """Mean observation `[…, *observation_shape]` in the environment's units.

        Images are floats around [0, 1], not clamped, so that gradients pass.
        """
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        return self.observations.unscale(self.observations.decoder(state))

    def reward(self, state: Tensor) -> Tensor:
        """Mean reward `[…]` for arriving in `state […, S]`."""
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        return self.reward_head(state).squeeze(-1)

    def observe(
        self,
        state: Tensor,
        action: Tensor,
        observation: Tensor,
        noise: Tensor | None = None,
        *,
        validate: bool = True,
    ) -> Tensor:
        """Posterior state `[…, S]` after `action` led to `observation`.

        Args:
            state: `[…, S]` before the action.
            action: `[…, A]`; zeros for the first observation of an episode.
            observation: `[…, *observation_shape]`.
            noise: Standard normal draw `[…, K]`; None gives the posterior mean.
            validate: Look for NaN and infinity too, where there are numbers to look at.
                On a GPU this waits for the device.

        Raises:
            ShapeError: wrong sizes, or leading dimensions that differ.
            TensorTypeError: integers where a vector is expected.
            NonFiniteError: NaN or infinity in the observation.
        """
        feature = self._advance(state, action)
        self.observations.check(observation, finite=False)
        if validate and not is_traced(observation):
            self.observations.check(observation, finite=True)
        require_leading("observation", observation, self.observation_shape, state)
        if noise is not None:
            self._check_noise(noise, state)
        embedding = self.encode_observation(observation)
        projected = self.transition.project(embedding, action)
        mean, std = self.transition.posterior(feature, projected)
        stochastic = mean if noise is None else mean + std * noise
        return self.transition.join(stochastic, feature)

    def observe_sequence(
        self, batch: SequenceBatch, generator: torch.Generator | None = None
    ) -> Tensor:
        """Posterior states `[B, L + 1, S]` along whole sequences.

        Filtering starts from the zero state and a zero action.

        Args:
            batch: The sequences; their rewards are not looked at.
            generator: Source of the posterior's noise; None gives posterior means.
        """
        batch = self.observations.looked_at(batch, generator)
        return self._filter(batch, self._sequence_noise(batch, generator))[0]

    def loss(self, batch: SequenceBatch, generator: torch.Generator) -> LossRecord:
        """Negative evidence lower bound, per time step.

        observation_scale · mean ½‖o - ô‖² + reward_scale · mean ½(r - r̂)² +
        kl_scale · floored mean KL(posterior ‖ prior), with means over batch and time.

        Args:
            batch: Sequences; each starts from the zero state and a zero action. NaN
                is not looked for here, and makes the loss NaN.
            generator: Source of the posterior's noise.

        Returns:
            The loss, and the metrics `observation_loss`, `reward_loss`, `kl` (before
            the floor) and `loss`.
        """
        batch = self.observations.looked_at(batch, generator)
        noise = self._sequence_noise(batch, generator)
        states, features, mean, std = self._filter(batch, noise)
        target = self.observations.scale(batch.observations)
        predicted = self.observations.decoder(states)
        dims = len(self.observation_shape)
        observation = unit_gaussian_nll(predicted, target, dims).mean()
        arrivals = self.reward(states[:, 1:])
        reward = unit_gaussian_nll(arrivals, batch.rewards, 0).mean()
        kl = gaussian_kl(mean, std, *self.transition.prior(features))
        total = (
            self.observation_scale * observation
            + self.reward_scale * reward
            + self.kl_scale * floored_kl(kl, self.free_nats, self.free_nats_on)
        )
        metrics = {
            "loss": total,
            "observation_loss": observation,
            "reward_loss": reward,
            "kl": kl.mean(),
        }
        return LossRecord(total, {name: v.detach() for name, v in metrics.items()})

    def save(self, path: str | PathLike[str]) -> None:
        """Write configuration, weights and normaliser to `path`; see `models.save`."""
        write_model(self, Path(path), {})

    @classmethod
    def load(
        cls, path: str | PathLike[str], device: torch.device | str = "cpu"
    ) -> "RSSM":
        """Model of this class that `save` wrote, ready to be trained on.

        Raises:
            FileError: the file is missing, damaged or holds something else.
        """
        model: RSSM = read_model(Path(path), {cls.__name__: cls})
        return model.to(device)

    def _advance(self, state: Tensor, action: Tensor) -> Tensor:
        self._check_pair(state, action)
        return self.transition.advance(state, action)

    def _check_pair(self, state: Tensor, action: Tensor) -> None:
        require_shape("state", state, [self.state_dim], "must equal state_dim")
        require_shape("action", action, [self.action_dim], "must equal action_dim")
        require_leading("action", action, [self.action_dim], state)

    def _check_noise(self, noise: Tensor, state: Tensor) -> None:
        require_shape("noise", noise, [self.state_size], "must equal state_size")
        require_leading("noise", noise, [self.state_size], state)

    def _sequence_noise(
        self, batch: SequenceBatch, generator: torch.Generator | None
    ) -> Tensor | None:
        if generator is None:
            return None
        shape = (batch.size, batch.length + 1, self.state_size)
        weight = next(self.parameters())
        noise = torch.randn(
            shape, generator=generator, device=generator.device, dtype=weight.dtype
        )
        return noise.to(weight.device)

    def _filter(
        self, batch: SequenceBatch, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Posterior states, prior features, posterior means and deviations.

        All `[B, L + 1, ·]`. Only the recurrence itself is inside the loop over time;
        encoder and heads see the whole batch at once.
        """
        self.observations.check(batch.observations, finite=False)
        actions = batch.actions
        require_shape("actions", actions, [self.action_dim], "must equal action_dim")
        actions = torch.cat([torch.zeros_like(actions[:, :1]), actions], dim=1)
        embeddings = self.encode_observation(batch.observations)
        projected = self.transition.project(embeddings, actions)
        state = self.initial_state((batch.size,))
        records: tuple[list[Tensor], ...] = ([], [], [], [])
        for time in range(batch.length + 1):
            feature = self.transition.advance(state, actions[:, time])
            mean, std = self.transition.posterior(feature, projected[:, time])
            sample = mean if noise is None else mean + std * noise[:, time]
            state = self.transition.join(sample, feature)
            for record, value in zip(records, (state, feature, mean, std), strict=True):
                record.append(value)
        states, features, means, stds = (torch.stack(r, dim=1) for r in records)
        return states, features, means, stds
