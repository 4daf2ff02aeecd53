"""The checks of an RSSM's arguments."""

from typing import Any

from diffplan._checks import require_at_least, require_positive
from diffplan.errors import ArgumentError
from diffplan.models._networks import IMAGE_SHAPE


def check_rssm_config(config: dict[str, Any]) -> None:
    """Check the arguments of an `RSSM`.

    Args:
        config: Argument names and values, all of them.

    Raises:
        ArgumentError: names the first argument that is out of range.
    """
    shape = config["observation_shape"]
    if len(shape) != 1 and shape != IMAGE_SHAPE:
        raise ArgumentError(
            f"observation_shape: expected (D,) or {IMAGE_SHAPE}, got {shape}"
        )
    minima = {
        **dict.fromkeys(("belief_size", "reward_layers", "vector_layers"), 0),
        **dict.fromkeys(("free_nats", "kl_scale"), 0),
        **dict.fromkeys(("observation_scale", "reward_scale"), 0),
        **dict.fromkeys(("action_dim", "state_size", "embedding_size"), 1),
        **dict.fromkeys(("hidden_size", "reward_hidden", "vector_hidden"), 1),
        "image_depth": 1,
    }
    for name, minimum in minima.items():
        require_at_least(name, config[name], minimum)
    require_positive("min_std", config["min_std"])
    bits = config["image_bits"]
    if bits not in range(1, 9):
        raise ArgumentError(f"image_bits: expected one of 1 … 8, got {bits!r}")
