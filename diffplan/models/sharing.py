"""Trained models to share: in files with a card, and by name those that come along."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffplan.constraints._box import Box
from diffplan.errors import FileError
from diffplan.models._model_file import Kinds, read_card, read_model, write_model
from diffplan.models.actor_critic import Actor, Critic
from diffplan.models.rssm import RSSM

_SHIPPED = Path(__file__).parent / "trained"
_SUFFIX = ".safetensors"


def save(
    model: nn.Module,
    path: str | PathLike[str],
    *,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as safetensors, from which `load` builds it again.

    Args:
        model: An `RSSM`, `Actor` or `Critic`; or a module of yours whose attribute
            `config` has its constructor's arguments as plain values (lists come back
            as tuples).
        path: Where; an existing file is replaced. Its folder is made if needed.
        card: What a stranger should know: task, data, commit, results, licence. Plain
            values: numbers, strings, lists, dictionaries.

    Raises:
        ArgumentError: it has no `config`, or something is no plain value.
    """
    write_model(model, Path(path), {} if card is None else card)


def load(name_or_path: str | PathLike[str], *, kinds: Kinds | None = None) -> Any:
    """Return a trained model, in evaluation mode and on the CPU.

    No code of a file is ever run, and none that is damaged is taken.

    Args:
        name_or_path: One of `available()`, or a file that `save` wrote.
        kinds: Classes of your own that a file may hold, by their names.

    Raises:
        FileError: there is no such model or file, or it is damaged, of a kind that is
            not known, or something else.

    Example:
        >>> model = load("cartpole-swingup-state-1")
        >>> model(model.initial_state((4,)), torch.zeros(4, 1)).shape
        torch.Size([4, 94])
    """
    known: Kinds = {"RSSM": RSSM, "Actor": _actor, "Critic": Critic, **(kinds or {})}
    return read_model(_path(name_or_path), known).eval()


def available() -> list[str]:
    """Return the names of the models that come with diffplan.

    Example:
        >>> available()
        ['cartpole-swingup-state-1', 'reach-state-0']
    """
    return sorted(path.stem for path in _SHIPPED.glob(f"*{_SUFFIX}"))


def card(name_or_path: str | PathLike[str]) -> dict[str, Any]:
    """Return what is told about a model: its `kind`, and what `save` was given.

    Args:
        name_or_path: As for `load`.

    Raises:
        FileError: see `load`.

    Example:
        >>> card("reach-state-0")["task"]
        'metaworld/reach'
    """
    return read_card(_path(name_or_path))


def _path(name_or_path: str | PathLike[str]) -> Path:
    if name_or_path in available():
        return _SHIPPED / f"{name_or_path}{_SUFFIX}"
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise FileError(
            f"name_or_path: expected a file or one of {available()}, got "
            f"{str(name_or_path)!r}"
        )
    return path


def _actor(action_space: Mapping[str, Any], **arguments: Any) -> Actor:
    # A box looks at its numbers: not without memory, as everything else is built.
    with torch.device("cpu"):
        box = Box(**action_space)
    return Actor(action_space=box, **arguments)
