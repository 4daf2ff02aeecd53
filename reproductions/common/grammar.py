"""What the words of a command choose: `preset=paper task=reach,push seed=0,1`.

A word without a dot is the preset, or names values of an axis; lists multiply. A word
with a dot is a setting, `stage.setting=value`.
"""

import argparse
import textwrap
from collections.abc import Sequence

from diffplan._checks import require_known
from diffplan.errors import ArgumentError
from reproductions.common.experiment import PRESETS, Experiment, Paper, Selection

PRESET, STAGE, SEED = "preset", "stage", "seed"
OPTIONS = {PRESET: "preset", STAGE: "stages", SEED: "seeds"}
"""Words that have an option too, by its name."""


def choice(paper: Paper, options: argparse.Namespace) -> tuple[str, Selection]:
    """Return the preset, and what is chosen of it.

    Args:
        paper: Whose words they are.
        options: With `preset`, `stages`, `seeds`, and `words` such as `seed=0,1`.

    Raises:
        UnknownNameError: no such preset, axis or value; lists what there is.
        ArgumentError: a word has no value, stands twice, or is a number that is none.
    """
    chosen = {
        word: getattr(options, option)
        for word, option in OPTIONS.items()
        if getattr(options, option) is not None
    }
    settings = []
    for text in options.words:
        key, _, value = text.partition("=")
        if not key or not value:
            raise ArgumentError(f"{text}: expected key=value")
        if "." in key:
            settings.append(text)
        elif key in chosen:
            raise ArgumentError(f"{key}: expected one list, got {chosen[key]}, {value}")
        else:
            chosen[key] = value
    preset = chosen.pop(PRESET, paper.presets[0])
    preset = require_known(f"--{PRESET}", preset, paper.presets)
    axes = paper.axes(preset)
    values = {
        require_known("axis", key, [PRESET, STAGE, SEED, *axes]): _split(key, text)
        for key, text in chosen.items()
    }
    stages, seeds = values.pop(STAGE, None), values.pop(SEED, None)
    selection = Selection(
        stages=stages,
        seeds=None if seeds is None else _numbers(seeds),
        axes={
            key: [_value(key, name, axes[key]) for name in names]
            for key, names in values.items()
        },
        settings=settings,
    )
    paper.stages(preset, selection)
    # Refused now: what is wrong in the command is no matter of a report, or of a run.
    paper.settings(preset, settings)
    return preset, selection


def help_text(paper: Paper) -> str:
    """Return presets, stages, axes and how settings are named, for `--help`."""
    facts = paper.facts
    first, *_ = paper.presets
    names = " ".join(f"{facts['title']} ({facts['authors']}; {facts['venue']})".split())
    lines = [*textwrap.wrap(f"Reproduce {names}.", 80), ""]
    lines.append("presets: preset=NAME")
    for name in paper.presets:
        default = " (default)" if name == first else ""
        stages = ", ".join(paper.stages(name))
        about = PRESETS.get(name, "")
        lines += _paragraph(f"{name}{default}", f"{about}; stages {stages}")
    lines += ["", "stages: stage=NAME,NAME; all but those on request"]
    for each in paper.experiments:
        presets = ",".join(each.on_request)
        asked = f"on request with preset={presets}" if presets else ""
        about = [each.about or each.title, _seeds(each), asked]
        lines += _paragraph(each.name, "; ".join(filter(None, about)))
    lines += ["", "axes: what is run; lists multiply, such as seed=0,1,2"]
    lines += _paragraph("seed", "training seeds, any numbers")
    for each in paper.experiments:
        for name, axis in each.axes.items():
            presets = ", ".join(axis.needed)
            needed = f", must be named with preset={presets}" if presets else ""
            about = f"(stage {each.name}{needed}) {' '.join(axis.choices)}"
            lines += _paragraph(name, about)
    example = paper.experiments[0].name
    lines += ["", f"settings: {example}.KEY=VALUE replaces one setting of a stage"]
    lines.append("  --settings lists all keys of a preset with values and meaning")
    return "\n".join(lines) + "\n"


def _seeds(each: Experiment) -> str:
    if callable(each.seeds):
        return "seeds by its settings"
    return f"seed {','.join(map(str, each.seeds))} by default" if each.seeds else ""


def _paragraph(head: str, text: str) -> list[str]:
    first = f"  {head:<14} "
    return textwrap.wrap(
        text,
        88,
        initial_indent=first,
        subsequent_indent=" " * 17,
        break_on_hyphens=False,
    )


def _split(key: str, text: str) -> list[str]:
    names = text.split(",")
    if not all(names):
        raise ArgumentError(f"{key}: expected values such as a,b, got {text!r}")
    return list(dict.fromkeys(names))


def _value(axis: str, name: str, choices: Sequence[str]) -> str:
    """Return the value of that name, or the only one that begins with it."""
    fit = [each for each in choices if each.startswith(name)]
    return fit[0] if len(fit) == 1 else require_known(axis, name, choices)


def _numbers(texts: Sequence[str]) -> list[int]:
    if not all(text.isdigit() for text in texts):
        given = ",".join(texts)
        raise ArgumentError(f"seed: expected numbers such as 0,1,2, got {given!r}")
    return list(dict.fromkeys(map(int, texts)))
