"""What may go into the repository, and what may not."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from diffplan._outside import source_version
from diffplan.errors import ArgumentError
from reproductions.common.runs import FINISHED, Found
from reproductions.common.units import Unit, difference, fingerprint


def own_settings(
    records: Mapping[str, Mapping[str, Any]],
    units: Callable[[Sequence[int] | None], Sequence[Unit]],
) -> list[str]:
    """Return what differs from the preset in the settings of units, in words.

    Seeds are chosen, and are no difference.

    Args:
        records: Of the units, by name.
        units: All work of the preset, for some seeds or those of the default.
    """
    chosen = dict.fromkeys([None, *(_seeds(r["settings"]) for r in records.values())])
    # A unit that does not say its seed, as a film, is known with the seeds of others.
    known = [{unit.name: unit.settings() for unit in units(seeds)} for seeds in chosen]
    found = []
    for name, record in records.items():
        options = [each[name] for each in known if name in each]
        if not options:
            found.append(f"{name} is no unit of it")
        elif record["settings"] not in options:
            what = difference(options[-1], record["settings"])
            found.append(f"{name}: {what}")
    return found


def require_publishable(
    units: Sequence[Found],
    committed: Mapping[str, Mapping[str, Any]],
    own: Sequence[str],
    stages: Sequence[str],
    *,
    kept: Collection[str] = (),
) -> None:
    """Raise unless a run may take the place of committed results.

    Args:
        units: Of the run folder and these stages.
        committed: Records of the units on the committed page, by name.
        own: What differs from the preset, in words.
        stages: That are published; others stay as they are committed.
        kept: Those of the stages whose committed units may stay beside new ones.

    Raises:
        ArgumentError: says why not.
    """
    source = source_version()
    if source["dirty"] is not False:
        state = "changes that no commit holds" if source["commit"] else "none"
        raise ArgumentError(
            f"publish: expected the clean tree of a repository, got {state}; `git "
            "status` names the changes"
        )
    done = {unit.name: unit for unit in units if unit.state == FINISHED}
    if not done:
        raise ArgumentError("publish: expected finished units, the run folder has none")
    rest = [f"{u.name} ({u.state})" for u in units if u.state != FINISHED]
    if rest:
        raise ArgumentError(
            f"publish: expected finished units, got {_some(rest)}; run the command "
            "again, or publish other stages with --stages"
        )
    page = {n for n in committed if n.partition("/")[0] in stages}
    lost = sorted(n for n in page - done.keys() if n.partition("/")[0] not in kept)
    if lost:
        raise ArgumentError(
            f"publish: expected all {len(page)} units that the committed page shows of "
            f"{', '.join(stages)}, the run folder lacks {_some(lost)}; "
            "--add puts units beside those of a page that is made from the ledger"
        )
    stale = [
        f"{name}, made from another {need}"
        for name in sorted(page - done.keys())
        for need, before in committed[name].get("inputs", {}).items()
        if need in done and fingerprint(done[need].record) != before
    ]
    if stale:
        raise ArgumentError(
            "publish: expected committed units that fit those of the run folder, got "
            f"{_some(stale)}"
        )
    foreign = [
        f"{name}, made from another {need}"
        for name, unit in sorted(done.items())
        for need, made_from in unit.record.get("inputs", {}).items()
        if need not in done and made_from != _published(need, committed, made_from)
    ]
    if foreign:
        raise ArgumentError(
            "publish: expected units that were made from the committed ones, got "
            f"{_some(foreign)}; publish what they were made from too"
        )
    if own:
        raise ArgumentError(
            f"publish: expected the settings of the preset, got {_some(own)}"
        )
    dirty = [name for name, u in done.items() if u.record["source"]["dirty"]]
    if dirty:
        raise ArgumentError(
            "publish: expected units that ran from a commit, got changes that none "
            f"holds in {_some(dirty)}"
        )


def _published(
    name: str, committed: Mapping[str, Mapping[str, Any]], unknown: str
) -> str:
    """Return the fingerprint of a committed unit, or `unknown`.

    Records of earlier versions do not have it, but those of the units of its stage
    that were made from it.
    """
    if name not in committed:
        return unknown
    stage = name.partition("/")[0]
    readers = (r for n, r in committed.items() if n.partition("/")[0] == stage)
    known = [committed[name].get("fingerprint")]
    known += [each.get("inputs", {}).get(name) for each in readers]
    return next((each for each in known if each), unknown)


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return f"{', '.join(texts[:3])}{more}"


def _seeds(settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the seeds that a unit was called with, None if it has none."""
    if isinstance(settings.get("seed"), int):
        return (settings["seed"],)
    seeds = settings.get("seeds")
    return tuple(seeds) if isinstance(seeds, list) else None
