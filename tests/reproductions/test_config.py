"""Settings from the command line: typed, and refused by name when they are wrong."""

import copy
import dataclasses
import json
import pickle
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from diffplan._checks import require_positive
from diffplan._runs.config import apply_overrides, describe, keys, resolved
from diffplan._runs.settings import Settings
from diffplan.errors import ArgumentError, UnknownNameError
from diffplan.planners import CEM, LatCo
from reproductions.latco import comparison
from reproductions.latco.comparison_config import ComparisonConfig


@dataclass(frozen=True)
class Sail:
    """A sail.

    Attributes:
        area: In square metres,
            measured flat.
        reefs: How many.
    """

    area: float = 20.0
    reefs: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        require_positive("area", self.area)


@dataclass(frozen=True)
class Boat:
    """A boat.

    Attributes:
        crew: People on board.
    """

    crew: int = 2
    name: str = "Ida"
    rig: Literal["sloop", "yawl"] = "sloop"
    engine: bool = False
    depth: float | None = None
    box: tuple[float, float] = (0.0, 1.0)
    sail: Sail = field(default_factory=Sail)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("crew=1_000", "crew", 1000),
        ("name=12", "name", "12"),
        ("rig=yawl", "rig", "yawl"),
        ("engine=yes", "engine", True),
        ("depth=1.5", "depth", 1.5),
        ("depth=none", "depth", None),
        ("box=1,2e-1", "box", (1.0, 0.2)),
        ("sail.area=3", "sail.area", 3.0),
        ("sail.reefs=7", "sail.reefs", (7,)),
        ("sail.reefs=", "sail.reefs", ()),
    ],
)
def test_values_have_the_type_of_their_field(
    text: str, path: str, value: object
) -> None:
    changed = {key: found for key, found, _ in keys(apply_overrides(Boat(), [text]))}
    expected = {key: found for key, found, _ in keys(Boat())} | {path: value}
    assert changed == expected
    assert type(changed[path]) is type(value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("crw=3", UnknownNameError, "did you mean crew"),
        ("sail.aera=3", UnknownNameError, "did you mean sail.area"),
        ("crew.size=3", UnknownNameError, "plain value"),
        ("sail=3", ArgumentError, "set one of sail.area, sail.reefs"),
        ("crew=two", ArgumentError, "crew: expected int, got 'two'"),
        ("crew=2.5", ArgumentError, "crew: expected int"),
        ("rig=slop", UnknownNameError, "did you mean sloop"),
        ("engine=perhaps", UnknownNameError, "engine"),
        ("box=1", ArgumentError, "box: expected 2 values"),
        ("sail.area=-1", ArgumentError, "above 0, got -1"),
        ("crew", ArgumentError, "expected key=value"),
    ],
)
def test_mistakes_are_named(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        apply_overrides(Boat(), [text])


def test_the_given_configuration_stays_as_it_is() -> None:
    boat = Boat()
    apply_overrides(boat, ["sail.area=3", "crew=4"])
    assert boat == Boat()


def test_settings_describe_themselves() -> None:
    text = describe(Boat())
    assert "sail.area=20.0\n      In square metres, measured flat.\n" in text
    assert "crew=2\n      People on board." in text


def test_resolved_settings_are_json() -> None:
    assert resolved(Boat()) == {
        **dataclasses.asdict(Boat()),
        "box": [0.0, 1.0],
        "sail": {"area": 20.0, "reefs": [1, 2]},
    }


# Settings of what the library builds


class Wood:
    """No text says which."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Wood)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "wood"


def hull(length: float, *, planks: int = 3, tar: Wood | None = None) -> str:
    """Return a hull.

    Args:
        length: In metres.
        planks: On each side,
            keel left out.
        tar: What it is tarred with.
    """
    return f"{length} m, {planks} planks, {tar}"


HULL = Settings(partial(hull, tar=Wood()), planks=5)
SEARCH = Settings(CEM, num_samples=20, num_elites=4)
LATCO = Settings(LatCo.released, iterations=9, engine="native")


@dataclass(frozen=True)
class Ship:
    """A ship.

    Attributes:
        hull: Below the water.
    """

    hull: Settings = HULL
    search: Settings = SEARCH
    latco: Settings = LATCO


def test_settings_build_with_what_they_hold_and_what_is_given() -> None:
    assert HULL.build(2.0) == f"2.0 m, 5 planks, {Wood()}"
    assert HULL.build(2.0, planks=6).startswith("2.0 m, 6 planks")
    planner = Ship().search.build(7)
    assert (planner.horizon, planner.num_samples, planner.num_elites) == (7, 20, 4)
    assert isinstance(Ship().latco.build(3), LatCo)


def test_settings_are_saved_as_what_was_set() -> None:
    assert resolved(Ship())["search"] == {"num_samples": 20, "num_elites": 4}
    assert pickle.loads(pickle.dumps(HULL)) == HULL
    assert copy.deepcopy(HULL) == HULL
    assert Settings.full(hull) == {"planks": 3, "tar": None}
    with pytest.raises(AttributeError, match="never change"):
        HULL.planks = 3


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("hull.planks=7", "hull.planks", 7),
        # Of a constructor that hands its options on, and of `float | Tensor | None`.
        ("latco.damping=1e-2", "latco.damping", 0.01),
        ("latco.engine=theseus", "latco.engine", "theseus"),
        ("search.chunk_size=none", "search.chunk_size", None),
        ("search.epsilon=0", "search.epsilon", 0.0),
    ],
)
def test_every_argument_of_a_constructor_can_be_set(
    text: str, path: str, value: object
) -> None:
    changed = {key: found for key, found, _ in keys(apply_overrides(Ship(), [text]))}
    assert changed == {key: found for key, found, _ in keys(Ship())} | {path: value}
    assert type(changed[path]) is type(value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("hull.plank=3", UnknownNameError, "did you mean hull.planks"),
        ("search.chunk=3", UnknownNameError, "search.chunk_size"),
        ("hull.planks=many", ArgumentError, "hull.planks: expected int, got 'many'"),
        ("hull.length=3", UnknownNameError, r"hull\.length: there is no such setting"),
        (
            "latco.horizon=3",
            UnknownNameError,
            r"latco\.horizon: there is no such setting",
        ),
        ("hull.tar=black", UnknownNameError, r"hull\.tar: there is no such setting"),
        ("latco.engine=theseusx", UnknownNameError, "did you mean theseus"),
        ("search=3", ArgumentError, "set one of search.num_samples"),
    ],
)
def test_mistakes_in_arguments_are_named(
    text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        apply_overrides(Ship(), [text])
    with pytest.raises(UnknownNameError, match="CEM: there is no 'num_sample'"):
        Settings(CEM, num_sample=3)


def test_arguments_are_described_by_their_constructor() -> None:
    text = describe(Ship())
    assert "hull.planks=5\n      On each side, keel left out." in text
    assert "search.num_elites=4\n      k, how many are kept, at most N." in text
    assert "latco.iterations=9\n      K, Gauss-Newton steps" in text
    assert "search.epsilon=1e-06\n      Added to the variance after each refit." in text


def test_units_of_the_comparison_keep_their_settings(tmp_path: Path) -> None:
    """Results that took hours belong to these; others would be made again."""
    known = json.loads(Path(__file__).with_name("comparison_settings.json").read_text())
    units = comparison.units(ComparisonConfig(), [0], tmp_path)
    assert {unit.name: unit.settings() for unit in units} == known


def test_settings_know_what_a_class_hands_on_to_its_base() -> None:
    class Wide(CEM):
        def __init__(self, horizon: int, *, scale: float = 2.0, **options: Any) -> None:
            super().__init__(horizon, **options)
            self.scale = scale

    settings = Settings(Wide, num_samples=20, num_elites=3, scale=1.0)
    planner = settings.build(4)
    assert (planner.num_samples, planner.scale, planner.horizon) == (20, 1.0, 4)
    assert "iterations" in settings.free()
    with pytest.raises(UnknownNameError, match="Wide: there is no 'num_sample'"):
        Settings(Wide, num_sample=20)
