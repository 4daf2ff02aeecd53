"""Reports what diffplan finds on this machine, and how to mend what it does not.

A line for each: ok; missing (something optional is not there); or broken (it is there
and of no use, or diffplan needs it). The exit status is 1 if something is broken.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import torch

import diffplan
from diffplan._cli import DONE, FAILED, say
from diffplan._cli._requirements import Requirement, fits, requirements
from diffplan._outside import ask, source_version

OK, MISSING, BROKEN = "ok", "missing", "broken"

_LEAST_FREE = 100 * 2**20
# A plain install fails where SuiteSparse's headers are missing: see pyproject.toml.
_THESEUS = (
    "pip install setuptools wheel && pip install --no-deps --no-build-isolation "
    "theseus-ai==0.2.3 torchlie==0.1.0 torchkin==0.1.1 && pip install numpy scipy "
    "numba lxml omegaconf urdf_parser_py pybind11"
)
_TRY_CUDA = """
import torch
for index in range(torch.cuda.device_count()):
    torch.ones(2, device=f"cuda:{index}").sum().item()
    card = torch.cuda.get_device_properties(index)
    print(f"{card.name}, {card.total_memory / 2**30:.0f} GiB")
"""


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Attributes:
        name: Of what was looked at.
        state: "ok", "missing" or "broken".
        found: What there is, or what is wrong.
        mend: What to do about it; "" where all is well.
    """

    name: str
    state: str
    found: str
    mend: str = ""

    def __str__(self) -> str:
        line = f"{self.state:<8} {self.name}: {self.found}"
        return f"{line}; mend: {self.mend}" if self.mend else line


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="a list of objects instead")


def run(options: argparse.Namespace) -> int:
    """Print the report; return the exit status."""
    found = []
    for finding in findings():
        found.append(finding)
        if not options.json:
            say(str(finding))  # at once, for some take seconds
    if options.json:
        say(json.dumps(list(map(asdict, found)), indent=2))
    return FAILED if any(finding.state == BROKEN for finding in found) else DONE


def findings() -> Iterator[Finding]:
    """Look at one thing after the other; what may crash is tried in other processes."""
    yield _diffplan()
    try:
        asked = requirements()
        needs = metadata.metadata("diffplan")["Requires-Python"]
    except metadata.PackageNotFoundError:
        asked, needs = [], ""
    python = f"{platform.python_version()}, {sys.executable}"
    fine = fits(platform.python_version(), needs)
    yield _judged("python", fine, python, f"use Python {needs}")
    yield from map(_package, sorted(asked, key=lambda package: package.extras))
    kernels = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield Finding("processor", OK, f"{threads}, {kernels} kernels")
    yield _cuda()
    yield _rendering()
    yield _results()


def _diffplan() -> Finding:
    folder, source = Path(diffplan.__file__).parent, source_version()
    found = f"{diffplan.__version__}, {folder}"
    if source["commit"]:
        changed = " and changes" if source["dirty"] else ""
        found += f", commit {source['commit'][:10]}{changed}"
    try:
        installed = metadata.version("diffplan")
    except metadata.PackageNotFoundError:
        installed = "nothing"
    fine = installed == diffplan.__version__
    found += "" if fine else f"; but what is installed is {installed}"
    checkout = (folder.parent / "pyproject.toml").exists()
    mend = f'pip install -e "{folder.parent}"' if checkout else "install it again"
    return _judged("diffplan", fine, found, mend)


def _package(package: Requirement) -> Finding:
    """Look at the version of a package; import Theseus, whose install fails easily."""
    name = f"{package.name} ({', '.join(package.extras)})".removesuffix(" ()")
    theseus = package.name == "theseus-ai"
    mend = _THESEUS if theseus else f'pip install "{package.asked}"'
    try:
        installed = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        here = ".".join(platform.python_version_tuple()[:2])
        if not fits(here, package.python):
            mend = f"use Python {package.python}"
        return Finding(name, MISSING if package.extras else BROKEN, "absent", mend)
    if not fits(installed, package.versions):
        found = f"{installed}, expected {package.versions}"
        return Finding(name, BROKEN, found, mend)
    if theseus:
        answer = ask(sys.executable, "-W", "ignore", "-c", "import theseus")
        if not answer.good:
            return Finding(name, BROKEN, f"{installed}, {answer.text}", mend)
    return Finding(name, OK, installed)


def _cuda() -> Finding:
    """Add two numbers on each card, where torch is built for cards."""
    query = "--query-gpu=name,driver_version,memory.total"
    seen = ask("nvidia-smi", query, "--format=csv,noheader")
    cards = seen.text if seen.good else ""
    found = f"torch {torch.__version__} is built without it"
    if not (torch.version.cuda or torch.version.hip):
        mend = "take another build, see https://pytorch.org/get-started/locally"
        if cards:
            return Finding("cuda", MISSING, f"{_row(cards)}, but {found}", mend)
        return Finding("cuda", OK, f"no card, and {found}")
    used = ask(sys.executable, "-W", "ignore", "-c", _TRY_CUDA)
    if not used.good:
        mend = "update the driver, or take a build of torch for this one and this card"
        return Finding("cuda", BROKEN, _row(cards, used.text), mend)
    if cards and not used.text:
        mend = "unset CUDA_VISIBLE_DEVICES, or update the driver"
        return Finding("cuda", BROKEN, f"{_row(cards)}, but torch sees none", mend)
    return Finding("cuda", OK, _row(cards or used.text) or "no card")


def _rendering() -> Finding:
    """Draw an image with the OpenGL library that is chosen, or with others."""
    name, chosen = "rendering", os.environ.get("MUJOCO_GL", "")
    value = f"MUJOCO_GL={chosen}" if chosen else "MUJOCO_GL is not set"
    try:
        metadata.version("mujoco")
    except metadata.PackageNotFoundError:
        return Finding(name, MISSING, f"{value}; needs mujoco", "see mujoco")
    # Behind the question whether MuJoCo is there, for it imports NumPy.
    from diffplan.envs import _rendering as opengl

    linux = sys.platform.startswith("linux")
    fault = "" if linux and not chosen else opengl.backend_fault(chosen)
    if not fault and (chosen or not linux):
        return Finding(name, OK, f"{value}; draws")
    others = [each for each in opengl.BACKENDS if linux and each != chosen]
    works = next((each for each in others if not opengl.backend_fault(each)), "")
    if works and not chosen:
        return Finding(name, OK, f"{value}; diffplan takes {works}, which draws")
    state = MISSING if chosen in ("", *opengl.SWITCHED_OFF) else BROKEN
    found = f"{value}; draws nothing" + (f" ({fault})" if fault else "")
    mend = f"set MUJOCO_GL={works}, or unset it" if works else _row(opengl.APT_LINES)
    return Finding(name, state, found, mend)


def _results() -> Finding:
    """Write a file where runs would put theirs."""
    home = Path("runs").absolute()
    other = "start in a folder of yours, or name another one (--directory)"
    try:
        folder = next(each for each in (home, *home.parents) if each.exists())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"diffplan")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("results", BROKEN, f"{home}: {error.strerror}", other)
    found = f"{home} can be written, {free / 2**30:.1f} GiB are free"
    return _judged("results", free >= _LEAST_FREE, found, other)


def _judged(name: str, fine: bool, found: str, mend: str) -> Finding:
    return Finding(name, OK, found) if fine else Finding(name, BROKEN, found, mend)


def _row(*texts: str) -> str:
    """Return what has several lines as one."""
    lines = "\n".join(texts).splitlines()
    return "; ".join(line.strip() for line in lines if line.strip())
