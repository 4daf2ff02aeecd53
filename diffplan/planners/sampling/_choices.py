"""How planners that sample Gaussians sample choices too (`dp.Categorical`).

For a choice the mean `[n]` of a `Search` holds the probabilities of its options. One is
drawn by the Gumbel-max trick: the largest of log p + g, with independent Gumbel numbers
g, is option i with the probability p_i. That is a Gaussian's mean + std · noise with
other numbers, and taking the largest is what `Categorical.project` does. The weighted
mean of one-hot candidates is how often each option was chosen among the good ones: the
next probabilities, of which some of the last ones are kept, so that no option is lost
because a few samples had none of it.
"""

import torch
from torch import Tensor

from diffplan.constraints.categorical import Categorical

SMOOTHING = 0.2
"""The share of the last probabilities in the next ones."""

WARM_SHARE = 0.5
"""How much the actions of a warm start count in the first probabilities."""


def as_gaussian(
    space: Categorical, mean: Tensor, std: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p, ones and Gumbel noise in the place of mean, std and noise.

    For the blocks of choices; continuous numbers stay as they are. Samples are
    constants: a probability that moves a little changes none of them.

    Args:
        space: Where the choices are.
        mean: `[B, T, A]`.
        std: `[B, T, A]`.
        noise: N(0, 1), `[B, N, T, A]`.
    """
    tiny = torch.finfo(mean.dtype).tiny
    numbers, *chances = space.split(mean)
    spread, *others = space.split(std)
    normal, *drawn = space.split(noise)
    # -log u of a uniform u = Φ(noise), without the digits that u itself loses near 1
    waits = [-torch.special.log_ndtr(one) for one in drawn]
    return (
        torch.cat([numbers, *(p.detach().clamp_min(tiny).log() for p in chances)], -1),
        torch.cat([spread, *map(torch.ones_like, others)], -1),
        torch.cat([normal, *(-wait.clamp_min(tiny).log() for wait in waits)], -1),
    )


def mixed(space: Categorical, new: Tensor, old: Tensor, share: float) -> Tensor:
    """Return `new` `[…, A]` with a share of the old probabilities of its choices."""
    numbers, *blocks = space.split(new)
    others = space.split(old)[1:]
    pairs = zip(blocks, others, strict=True)
    return torch.cat([numbers, *(a.lerp(b, share) for a, b in pairs)], dim=-1)
