"""How the weights of world models start, where torch's own start is not the paper's."""

from torch import nn

from diffplan.models._recurrent import GRUCell
from diffplan.models._transition import PosteriorHead


def initialize_like_keras(module: nn.Module) -> None:
    """Glorot uniform kernels, orthogonal recurrent kernel, zero biases.

    What LatCo and Dreamer inherit from Keras. For `module.apply`, which visits every
    submodule, children first.
    """
    if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, GRUCell):
        nn.init.xavier_uniform_(module.weight_ih)
        nn.init.orthogonal_(module.weight_hh)
        nn.init.zeros_(module.bias_ih)
        nn.init.zeros_(module.bias_hh)
    elif isinstance(module, PosteriorHead):
        # `apply` comes here after the children. The two parts are one kernel, whose
        # bound follows from both inputs together.
        parts = (module.from_feature, module.from_observation)
        inputs = sum(part.in_features for part in parts)
        bound = (6 / (inputs + parts[0].out_features)) ** 0.5
        for part in parts:
            nn.init.uniform_(part.weight, -bound, bound)
