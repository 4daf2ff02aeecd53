"""A paper is a folder with experiments; both are described by records.

A folder of `reproductions` with a `paper.toml` is a paper. Its module `paper` holds the
record `PAPER`; commands, documentation and tables find it there.
"""

import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any

from diffplan._checks import require_known
from diffplan._runs.config import apply_overrides
from diffplan.errors import ArgumentError
from reproductions.common import paper_numbers
from reproductions.common.units import Unit

PRESETS = {
    "cpu": "for a CPU",
    "smoke": "so small that the numbers mean nothing",
    "gpu-short": "what one GPU does in ten minutes",
    "paper": "the paper's protocol in full, for days and mostly for a GPU",
}
"""Names of presets, which mean the same in every paper; the first is the default."""


@dataclass(frozen=True)
class Axis:
    """A word of the command line that takes a list, such as `planner=latco,cem`.

    Attributes:
        choices: All values.
        needed: Presets in which values must be named before anything is run.
    """

    choices: tuple[str, ...]
    needed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """From what a report is made, and where it goes.

    Attributes:
        runs: The experiment's run folder; it need not exist.
        output: Holds what is published already, and receives CSV, JSON and figures.
        preset: Its name.
        records: Of the units that the page shows, by name.
    """

    runs: Path
    output: Path
    preset: str
    records: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """What an experiment adds to the page of its paper.

    Attributes:
        text: Markdown.
        rows: Of the table at the head of the page.
        title: In place of the experiment's, where it depends on the runs.
    """

    text: str
    rows: Sequence[Sequence[object]] = ()
    title: str = ""


@dataclass(frozen=True)
class Experiment:
    """A part of a paper that is run and shown on its own: a *stage* of its command.

    Attributes:
        name: First part of the names of its units, and its folder in a run folder.
        title: Of its section on the page.
        presets: What makes its settings, a frozen dataclass, for each preset that has
            this experiment. Values of axes come as keywords.
        units: `(settings, seeds, directory) → units`.
        report: Makes tables and figures of what is in the run folder or published;
            None stands for nothing there.
        about: A sentence for `--help`.
        seeds: That are run by default, or what returns them for settings; empty if the
            experiment has no seeds to choose.
        axes: By name; without a value the settings' own default holds.
        on_request: Presets that leave it out, unless its stage or a value that only it
            has is named: what a first command does not wait for.
    """

    name: str
    title: str
    presets: Mapping[str, Callable[..., Any]]
    units: Callable[[Any, Sequence[int], Path], Sequence[Unit]]
    report: Callable[[Results], Section | None]
    about: str = ""
    seeds: Sequence[int] | Callable[[Any], Sequence[int]] = (0,)
    axes: Mapping[str, Axis] = field(default_factory=dict)
    on_request: tuple[str, ...] = ()

    def lacks(self, axes: Mapping[str, Sequence[str]]) -> str:
        """Return the first choice that this experiment does not have; empty if none."""
        for name, values in axes.items():
            known = self.axes[name].choices if name in self.axes else ()
            for value in values:
                if value not in known:
                    return f"{name}={value}"
        return ""


@dataclass(frozen=True)
class Selection:
    """What is chosen of a preset.

    Attributes:
        stages: Names of experiments; by default those that need no request.
        seeds: Of all that have some.
        axes: Values by axis; experiments that lack an axis or a value are left out.
        settings: Texts `experiment.setting=value`.
    """

    stages: Sequence[str] | None = None
    seeds: Sequence[int] | None = None
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Paper:
    """A paper: a folder with `paper.toml`, `README.md`, this record and results.

    Attributes:
        folder: Whose name is that of the command.
        experiments: In the order of page and work.
        columns: Of the table at the head of the page; empty if it has none.
        above: Markdown above this table.
        below: Markdown below it: how to read the page.
        claims: Returns Markdown that stands below that and judges the paper's claims
            by what all experiments have left in the output; its run folder is theirs.
        stages_needed: Presets of which stages must be named before anything is run.
        prepare: Called once before any unit runs.
    """

    folder: Path
    experiments: tuple[Experiment, ...]
    columns: tuple[str, ...] = ()
    above: str = ""
    below: str = ""
    claims: Callable[[Results], str] = lambda _: ""
    stages_needed: tuple[str, ...] = ()
    prepare: Callable[[], object] = lambda: None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """What `paper.toml` holds."""
        return paper_numbers.load(self.folder)

    @property
    def presets(self) -> list[str]:
        """The names of all presets, the default first."""
        found = {preset for each in self.experiments for preset in each.presets}
        return sorted(found, key=[*PRESETS, *sorted(found)].index)

    def committed(self, preset: str) -> Path:
        """Return the folder of a preset's published results."""
        return self.folder / "results" / preset

    def stages(self, preset: str, selection: Selection | None = None) -> list[str]:
        """Return the names of a preset's experiments, or of those that are chosen.

        Raises:
            UnknownNameError: there is no such stage.
            ArgumentError: one lacks an axis or a value of it, or none has the seeds.
        """
        there = {each.name: each for each in self._at(preset)}
        if selection is None:
            return [*there]
        names = [
            require_known("stage", name, [*there]) for name in selection.stages or there
        ]
        lacking = {name: there[name].lacks(selection.axes) for name in names}
        fit = [name for name in names if not lacking[name]]
        if selection.stages is not None and len(fit) < len(names):
            name = next(name for name in names if lacking[name])
            raise ArgumentError(f"{lacking[name]}: stage {name} has no such choice")
        if not fit:
            raise ArgumentError(
                f"{', '.join(selection.axes)}: no stage has all of these"
            )
        if selection.stages is None:
            asked = [name for name in fit if preset not in there[name].on_request]
            fit = asked or fit
        if selection.seeds is not None and not any(there[name].seeds for name in fit):
            raise ArgumentError(f"seed: stage {', '.join(fit)} has no seeds to choose")
        return [name for name in there if name in fit]

    def axes(self, preset: str) -> dict[str, list[str]]:
        """Return what can be chosen on each axis, in all experiments of a preset."""
        found: dict[str, list[str]] = {}
        for each in self._at(preset):
            for name, axis in each.axes.items():
                known = found.setdefault(name, [])
                known += [choice for choice in axis.choices if choice not in known]
        return found

    def settings(
        self,
        preset: str,
        settings: Sequence[str] = (),
        cell: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the settings of a preset's experiments, an attribute for each.

        Args:
            preset: Its name.
            settings: Texts `experiment.setting=value`.
            cell: A value for some axes.

        Raises:
            UnknownNameError: no such preset or setting; lists close matches.
        """
        require_known("preset", preset, self.presets)
        made = {
            each.name: each.presets[preset](
                **{k: v for k, v in (cell or {}).items() if not each.lacks({k: [v]})}
            )
            for each in self._at(preset)
        }
        kinds = [(name, type(value)) for name, value in made.items()]
        # One record of all, so that a wrong name is compared with all names.
        root = make_dataclass("Settings", kinds, frozen=True)(**made)
        return apply_overrides(root, settings)

    def units(self, preset: str, selection: Selection, directory: Path) -> list[Unit]:
        """Return the work that is chosen; lists on several axes multiply.

        Args:
            preset: Its name.
            selection: Of stages, seeds, axes and settings.
            directory: The run folder.
        """
        stages = self.stages(preset, selection)
        made: dict[str, Unit] = {}
        for each in self._at(preset):
            for cell in _cells(selection.axes) if each.name in stages else ():
                root = self.settings(preset, selection.settings, cell)
                settings = getattr(root, each.name)
                seeds = each.seeds(settings) if callable(each.seeds) else each.seeds
                if seeds and selection.seeds is not None:
                    seeds = selection.seeds
                for unit in each.units(settings, seeds, directory / each.name):
                    made.setdefault(unit.name, unit)  # the same one for several cells
        return list(made.values())

    def all_units(self, preset: str, seeds: Sequence[int] | None) -> list[Unit]:
        """Return everything that a preset's page may show, for some seeds."""
        made: dict[str, Unit] = {}
        for each in self._at(preset):
            axes = {name: axis.choices for name, axis in each.axes.items()}
            chosen = Selection([each.name], seeds if each.seeds else None, axes)
            units = self.units(preset, chosen, Path("runs"))
            made.update({unit.name: unit for unit in units})
        return list(made.values())

    def unchosen(self, preset: str, selection: Selection) -> str:
        """Return what must be named before a run, in a sentence; empty if nothing."""
        if preset in self.stages_needed and selection.stages is None:
            names = ",".join(self.stages(preset))
            return (
                f"--stages: expected some of {names} with preset={preset}, which takes "
                "days; name all of them to run it whole"
            )
        stages = self.stages(preset, selection)
        for each in self._at(preset):
            for name, axis in each.axes.items() if each.name in stages else ():
                if preset in axis.needed and name not in selection.axes:
                    return (
                        f"{name}: expected {name}=NAME with preset={preset}, whose "
                        f"runs take days; some of {', '.join(axis.choices)}"
                    )
        return ""

    def _at(self, preset: str) -> list[Experiment]:
        return [each for each in self.experiments if preset in each.presets]


def narrowed(make: Callable[[], Any], **chosen: str) -> Any:
    """Return settings with one value in the place of all, for each axis that has one.

    Args:
        make: Returns settings with a tuple for each axis: `tasks` for the axis `task`.
        **chosen: Values, by axis.
    """
    return replace(make(), **{f"{axis}s": (value,) for axis, value in chosen.items()})


def _cells(axes: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def papers() -> list[Paper]:
    """Return the papers in the folders of `reproductions`, by name."""
    places = importlib.import_module("reproductions").__path__
    folders = [
        f.parent for p in places for f in Path(p).glob(f"*/{paper_numbers.FILE}")
    ]
    names = sorted(folder.name for folder in folders)
    return [importlib.import_module(f"reproductions.{n}.paper").PAPER for n in names]
