"""How long units take, by what they once took."""

from collections.abc import Mapping, Sequence

from reproductions.common.units import Unit


def schedule(
    units: Sequence[Unit],
    seconds: Mapping[str, float],
    workers: int,
    done: Sequence[str] = (),
) -> float:
    """Return when the last unit ends, if each takes as long as it once did.

    Units start as `stages.run_units` starts them: in the order of the list, each after
    what it needs.

    Args:
        units: The work that is left.
        seconds: Of each unit, by name.
        workers: How many run at the same time.
        done: Units that the others need not wait for.
    """
    ends: dict[str, float] = dict.fromkeys(done, 0.0)
    running: dict[str, float] = {}
    waiting, now = list(units), 0.0
    while waiting or running:
        for unit in list(waiting):
            if len(running) < workers and set(unit.needs) <= ends.keys():
                waiting.remove(unit)
                running[unit.name] = now + seconds[unit.name]
        name = min(running, key=lambda key: running[key])
        now = ends[name] = running.pop(name)
    return now


def duration(seconds: float) -> str:
    """Return a duration in words.

    Example:
        >>> duration(40), duration(1500), duration(40_000)
        ('40 s', '25 min', '11 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
