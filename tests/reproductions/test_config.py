"""Settings from the command line: typed, and refused by name when they are wrong."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from diffplan._checks import require_positive
from diffplan.errors import ArgumentError, UnknownNameError
from reproductions.common.config import apply_overrides, describe, keys, resolved


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
