"""`diffplan WORD`: words, exit statuses, and what `doctor` says of a machine."""

import importlib
import json
import os
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import diffplan
from diffplan import _cli
from diffplan._checks import missing
from diffplan._cli import doctor
from diffplan._cli._requirements import fits, requirements
from diffplan._outside import Answer, ask
from diffplan.envs import _rendering as rendering

ROOT = Path(__file__).parents[1]
WORDS = sorted(path.stem for path in (ROOT / "diffplan" / "_cli").glob("[!_]*.py"))
ASKED = [
    "torch>=2.11",
    "absent-core",
    "mujoco==3.6.0; (python_version < '3.13') and extra == 'suite'",
    "old-one>=2; (python_version < '3') and extra == 'suite'",
    "gymnasium[mujoco]<1.5,>=1.1; extra == 'suite'",
    "theseus-ai==0.2.3; extra == 'theseus'",
    "imageio>=2.36; extra == 'suite'",
    "imageio>=2.36; extra == 'video'",
    "ruff>=0.12; extra == 'dev'",
]


class Machine:
    """A folder of packages that stands before those that are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, name: str, version: str, *lines: str) -> None:
        home = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        home.mkdir()
        head = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        (home / "METADATA").write_text("\n".join([*head, *lines]) + "\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a machine with diffplan, and nothing else that it asks for."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *without_packages()])
    monkeypatch.setattr(rendering, "backend_fault", lambda name: "no library")
    monkeypatch.setattr(doctor, "ask", lambda *command: Answer(False, "crashed"))
    monkeypatch.chdir(tmp_path)
    made = Machine(tmp_path)
    asked = [f"Requires-Dist: {line}" for line in ASKED]
    made.install("diffplan", diffplan.__version__, "Requires-Python: >=3.11", *asked)
    return made


def without_packages() -> list[str]:
    return [path for path in sys.path if "-packages" not in path]


def report() -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.findings()}


# The command line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], f"WORD: expected one of {', '.join(WORDS)}, got none"),
        (["doctr"], f"WORD: expected one of {', '.join(WORDS)}, got doctr"),
        (["doctor", "--jso"], "unrecognized arguments: --jso"),
        (["--json", "doctor"], "unrecognized arguments: --json"),
    ],
)
def test_wrong_arguments_end_with_64(
    capsys: pytest.CaptureFixture[str], given: list[str], told: str
) -> None:
    assert _cli.main(given) == 64
    assert capsys.readouterr().err == f"error: {told}\n"


def test_help_lists_the_words_and_each_helps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for given in (["--help"], *([word, "--help"] for word in WORDS)):
        with pytest.raises(SystemExit) as ended:
            _cli.main(given)
        assert ended.value.code == 0
        told = capsys.readouterr().out
        assert "exit status: 0 done" in told
        assert str(_cli.INTERRUPTED) in told
        assert all(f"  {word} " in told for word in WORDS) or given[1:]
        if given[0] == "tune":
            assert {"5000", "20", "4"} <= set(told.split())


def test_the_script_is_the_command_line() -> None:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = script["diffplan"].partition(":")
    assert getattr(importlib.import_module(module), name) is _cli.main


def test_import_diffplan_does_not_load_the_command_line() -> None:
    code = "import sys, diffplan; print('diffplan._cli' in sys.modules)"
    assert ask(sys.executable, "-c", code, PYTHONPATH=str(ROOT)).text == "False"


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (diffplan.errors.ArgumentError("what"), 64),
        (diffplan.errors.FileError("what"), 1),
        (PermissionError("what"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_exit_statuses(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    status: int,
) -> None:
    def fail(options: object) -> int:
        raise raised

    monkeypatch.setattr(doctor, "run", fail)
    assert _cli.main(["doctor"]) == status
    assert capsys.readouterr().err in ("error: what\n", "interrupted\n")


# What is asked for


@pytest.mark.parametrize("absent", ["gymnasium", "numpy"])
def test_a_word_names_what_it_lacks(absent: str) -> None:
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from diffplan._cli import main\n"
        "raise SystemExit(main(['train', 'Pendulum-v1', '--directory', 'run']))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        str(missing(f"needs {absent}", "suite"))
    )


def test_versions_fit_as_packaging_says() -> None:
    lines = [*ASKED, *(metadata.requires("diffplan") or ())]
    asked = {str(Requirement(line).specifier) for line in lines}
    for versions in {*asked, "!=2,<=3.6", ">1.5", ">=3.11,<3.13", ""}:
        for version in (
            "0.9",
            "1.1",
            "1.4.9",
            "1.5",
            "1.5.0",
            "2",
            "2.11",
            "2.13.0+cpu",
        ):
            right = SpecifierSet(versions).contains(version)
            assert fits(version, versions) == right, (version, versions)
        for number in SpecifierSet(versions):
            assert fits(number.version, str(number)) == number.contains(number.version)


def test_requirements_are_read_as_packaging_reads_them(machine: Machine) -> None:
    found = {(package.asked, package.extras) for package in requirements()}
    assert ("imageio>=2.36", ("suite", "video")) in found
    assert not any("dev" in extras for _, extras in found)
    wanted = [Requirement(line) for line in ASKED if "'dev'" not in line]
    assert {(each.name, each.specifier) for each in wanted} == {
        (package.name, SpecifierSet(package.versions)) for package in requirements()
    }
    pythons = {package.name: package.python for package in requirements()}
    assert pythons["mujoco"] == "<3.13"
    assert pythons["torch"] == ""


# What the doctor says


def test_what_is_absent_is_missing_or_broken_and_names_its_mend(
    machine: Machine,
) -> None:
    found = report()
    assert found["mujoco (suite)"].state == "missing"
    assert 'pip install "mujoco==3.6.0"' in found["mujoco (suite)"].mend
    mend = found["gymnasium (suite)"].mend
    assert shlex.split(mend) == ["pip", "install", "gymnasium[mujoco]<1.5,>=1.1"]
    assert found["absent-core"].state == "broken"
    assert found["old-one (suite)"].mend == "use Python <3"
    assert found["rendering"].state == "missing"
    assert found["diffplan"].state == found["python"].state == "ok"


def test_another_version_is_broken(machine: Machine) -> None:
    machine.install("mujoco", "3.17.0")
    machine.install("torch", "2.11.1+cpu")
    found = report()
    assert found["mujoco (suite)"].state == "broken"
    assert found["mujoco (suite)"].found == "3.17.0, expected ==3.6.0"
    assert found["torch"] == doctor.Finding("torch", "ok", "2.11.1+cpu")
    assert str(found["torch"]) == "ok       torch: 2.11.1+cpu"


def test_a_package_that_is_not_this_one_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffplan, "__version__", "99.0")
    told = report()["diffplan"]
    assert told.state == "broken"
    assert f"installed is {metadata.version('diffplan')}" in told.found
    assert told.mend == f'pip install -e "{ROOT}"'


def test_diffplan_itself_may_be_not_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[1:])
    assert "installed is nothing" in report()["diffplan"].found


def test_theseus_is_imported_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.install("theseus-ai", "0.2.3")
    told = report()["theseus-ai (theseus)"]
    assert (told.state, told.found) == ("broken", "0.2.3, crashed")
    monkeypatch.setattr(doctor, "ask", lambda *command: Answer(True, ""))
    assert report()["theseus-ai (theseus)"].state == "ok"


@pytest.mark.parametrize("page", ["README.md", "docs/getting_started.md"])
def test_the_mend_of_theseus_is_what_the_pages_say(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    for command in doctor._THESEUS.split(" && "):
        assert command in text
    (asked,) = [p.asked for p in requirements() if p.name == "theseus-ai"]
    assert asked in doctor._THESEUS


@pytest.mark.parametrize(
    ("chosen", "draws", "state", "mend"),
    [
        ("", {"egl", "osmesa"}, "ok", ""),
        ("", {"osmesa"}, "ok", ""),
        ("", set(), "missing", "apt-get install libegl1"),
        ("egl", {"egl"}, "ok", ""),
        ("glfw", {"osmesa"}, "broken", "set MUJOCO_GL=osmesa, or unset it"),
        ("egl", set(), "broken", "apt-get install libegl1"),
        ("disable", {"egl"}, "missing", "set MUJOCO_GL=egl, or unset it"),
    ],
)
def test_rendering_names_the_variable_to_set(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    draws: set[str],
    state: str,
    mend: str,
) -> None:
    def fault(name: str) -> str:
        return "" if name in draws else "no library"

    machine.install("mujoco", "3.6.0")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(rendering, "backend_fault", fault)
    monkeypatch.setenv("MUJOCO_GL", chosen)
    told = report()["rendering"]
    assert told.state == state
    assert told.mend.startswith(mend)
    assert bool(told.mend) == (state != "ok")


CARD = "NVIDIA H100, 560.35, 81559 MiB"


@pytest.mark.parametrize(
    ("build", "driver", "used", "state", "found"),
    [
        (None, "", None, "ok", "no card"),
        (None, CARD, None, "missing", CARD),
        ("12.8", "", Answer(True, ""), "ok", "no card"),
        ("12.8", f"{CARD}\n{CARD}", Answer(True, CARD), "ok", f"{CARD}; {CARD}"),
        ("12.8", CARD, Answer(True, ""), "broken", "torch sees none"),
        ("12.8", CARD, Answer(False, "no kernel image"), "broken", "no kernel image"),
    ],
)
def test_cards_are_used_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
    build: str | None,
    driver: str,
    used: Answer,
    state: str,
    found: str,
) -> None:
    def answer(*command: str) -> Answer:
        return Answer(bool(driver), driver) if command[0] == "nvidia-smi" else used

    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(doctor, "ask", answer)
    told = doctor._cuda()
    assert told.state == state
    assert found in told.found
    assert bool(told.mend) == (state != "ok")


def test_where_results_cannot_go_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = report()["results"]
    assert told.state == "ok"
    assert not Path("runs").exists()
    Path("runs").write_text("no folder")
    told = report()["results"]
    assert told.state == "broken"
    assert "--directory" in told.mend
    Path("runs").unlink()
    monkeypatch.setattr(doctor, "_LEAST_FREE", 2**62)
    assert report()["results"].state == "broken"


def test_the_real_report(tmp_path: Path) -> None:
    """On this machine, whatever it has; the exit status follows from the lines."""
    done = subprocess.run(
        [sys.executable, "-m", "diffplan", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {line["name"]: line for line in json.loads(done.stdout)}
    states = {line["state"] for line in found.values()}
    assert states <= {"ok", "missing", "broken"}
    assert done.returncode == int("broken" in states)
    assert all(line["mend"] or line["state"] == "ok" for line in found.values())
    assert found["torch"]["found"] == torch.__version__
    assert torch.backends.cpu.get_cpu_capability() in found["processor"]["found"]
    assert str(ROOT) in found["diffplan"]["found"]
    assert str(tmp_path / "runs") in found["results"]["found"]
    assert not any(tmp_path.iterdir())


def test_programs_that_are_absent_hang_or_crash_are_answers() -> None:
    assert ask(sys.executable, "-c", "print(' 3 ')") == Answer(True, "3")
    assert not ask("no-such-program").good
    told = ask(sys.executable, "-c", "import time; time.sleep(99)", seconds=0.5)
    assert told.text == "no answer within 0.5 seconds"
    assert ask(sys.executable, "-c", "import os; os.abort()").good is False
    assert ask(sys.executable, "-c", "1 / 0").text.startswith("ZeroDivisionError")
    code = "class A:\n def __del__(self): 1 / 0\na = A()\nraise SystemExit('cause')"
    assert ask(sys.executable, "-c", code).text == "cause"
