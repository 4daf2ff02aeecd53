"""The checks of an RSSM's arguments."""

from typing import Any

from diffplan._checks import require_at_least, require_count, require_positive
from diffplan.errors import ArgumentError
from diffplan.models._networks import IMAGE_SHAPE, MOST_LAYERS


def checked_rssm_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an `RSSM`, checked, as the plain numbers of a file.

    Args:
        config: Argument names and values, all of them.

    Raises:
        ArgumentError: names the first argument that is out of range.
    """
    shape = tuple(
        require_count("observation_shape", size) for size in config["observation_shape"]
    )
    if len(shape) != 1 and shape != IMAGE_SHAPE:
        raise ArgumentError(
            f"observation_shape: expected (D,) or {IMAGE_SHAPE}, got {shape}"
        )
    minima = {
        "belief_size": 0,
        **dict.fromkeys(("action_dim", "state_size", "embedding_size"), 1),
        **dict.fromkeys(("hidden_size", "reward_hidden", "vector_hidden"), 1),
        "image_depth": 1,
    }
    counts = {
        name: require_count(name, config[name], low) for name, low in minima.items()
    }
    layers = {
        name: require_count(name, config[name], 0, MOST_LAYERS)
        for name in ("reward_layers", "vector_layers")
    }
    weights = {
        name: float(require_at_least(name, config[name], 0))
        for name in ("free_nats", "kl_scale", "observation_scale", "reward_scale")
    }
    bits = config["image_bits"]
    if bits not in range(1, 9):
        raise ArgumentError(f"image_bits: expected one of 1 … 8, got {bits!r}")
    return {
        **config,
        **{"observation_shape": shape, **counts, **layers, **weights},
        "min_std": float(require_positive("min_std", config["min_std"])),
        "image_bits": int(bits),
    }
