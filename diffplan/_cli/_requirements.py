"""What diffplan asks for, from its own metadata, and whether a version will do."""

import re
from dataclasses import dataclass
from importlib import metadata
from operator import eq, ge, gt, le, lt, ne

_DEVELOPING = ("dev", "docs")  # extras for those who work on diffplan itself
_EXTRA = re.compile(r"\bextra\s*==\s*['\"]([^'\"]+)")
_PYTHON = re.compile(r"\bpython_version\s*([<>=!]+)\s*['\"]([^'\"]+)")
_COMPARE = {"==": eq, "!=": ne, "<=": le, ">=": ge, "<": lt, ">": gt}


@dataclass(frozen=True)
class Requirement:
    """A package that diffplan asks for.

    Attributes:
        asked: What pip takes, such as "gymnasium[mujoco]<1.5,>=1.1".
        python: The versions of Python for which it is asked for; "" for all.
        extras: Of diffplan, which bring it; none where diffplan itself needs it.
    """

    asked: str
    python: str
    extras: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the package."""
        return re.split(r"[^\w.-]", self.asked, maxsplit=1)[0]

    @property
    def versions(self) -> str:
        """Such as "<1.5,>=1.1"; "" for any."""
        return re.sub(r"^[\w.-]+(\[.*?\])?\s*", "", self.asked)


def requirements() -> list[Requirement]:
    """Return what diffplan and its extras ask for, in the order of its metadata.

    Raises:
        PackageNotFoundError: diffplan is imported from a folder, and not installed.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for line in metadata.requires("diffplan") or ():
        asked, _, marker = line.partition(";")
        python, extras = _PYTHON.search(marker), _EXTRA.findall(marker)
        if not extras or extras[0] not in _DEVELOPING:
            key = (asked.strip(), "".join(python.groups()) if python else "")
            found.setdefault(key, []).extend(extras)  # two may bring the same package
    return [Requirement(*key, tuple(extras)) for key, extras in found.items()]


def fits(version: str, versions: str) -> bool:
    """Return whether a version is one of those that are asked for.

    A build for some hardware (2.13.0+cpu) and a release to come (2.14.0a0) count as the
    release that they name.

    Args:
        version: Of what is installed.
        versions: What is asked for, such as "<1.5,>=1.1"; "" for any.
    """
    for clause in versions.split(",") if versions else ():
        number = clause.strip(" <>=!~")
        compare = _COMPARE[clause.replace(number, "").strip()]
        if not compare(_release(version), _release(number)):
            return False
    return True


def _release(version: str) -> list[int]:
    """Return the numbers of a release; 2 and 2.0 are the same one."""
    numbers = re.split(r"[^\d.]", version, maxsplit=1)[0].rstrip(".").split(".")
    while numbers[1:] and int(numbers[-1]) == 0:
        numbers.pop()
    return [int(number) for number in numbers]
