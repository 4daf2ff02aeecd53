"""Terms of the evidence lower bound of a latent sequence model."""

from jaxtyping import Float
from torch import Tensor

from diffplan.errors import ArgumentError

FREE_NATS_ON = ("mean", "step")


def gaussian_kl(
    mean: Float[Tensor, "*batch K"],
    std: Float[Tensor, "*batch K"],
    prior_mean: Float[Tensor, "*batch K"],
    prior_std: Float[Tensor, "*batch K"],
) -> Float[Tensor, "*batch"]:
    """KL(N(mean, std²) ‖ N(prior_mean, prior_std²)), in nats, summed over K."""
    ratio = (std / prior_std).square()
    distance = ((mean - prior_mean) / prior_std).square()
    return 0.5 * (ratio + distance - 1 - ratio.log()).sum(dim=-1)


def floored_kl(kl: Tensor, free_nats: float, on: str) -> Tensor:
    """Mean of `kl`, of which `free_nats` cost nothing.

    Below the floor the gradient is zero, so that the prior learns nothing: keep
    `free_nats` below the KL that the task needs.

    Args:
        kl: Any shape, nats.
        free_nats: Floor, nats.
        on: "mean" floors the mean over batch and time (Dreamer, LatCo); "step" floors
            every entry, then takes the mean (PlaNet).

    Raises:
        ArgumentError: `on` is neither.
    """
    if on == "mean":
        return kl.mean().clamp(min=free_nats)
    if on == "step":
        return kl.clamp(min=free_nats).mean()
    raise ArgumentError(
        f"free_nats_on: expected one of {list(FREE_NATS_ON)}, got {on!r}"
    )


def unit_gaussian_nll(
    mean: Tensor, target: Tensor, event_dims: int
) -> Float[Tensor, "*batch"]:
    """½ ‖target - mean‖² over the last `event_dims` dimensions.

    The negative log-density of a Gaussian of unit variance, less its constant.
    """
    squares = 0.5 * (target - mean).square()
    if event_dims == 0:
        return squares
    return squares.flatten(start_dim=-event_dims).sum(dim=-1)
