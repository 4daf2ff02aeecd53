"""A call of a planner is a `Plan` for type checkers, and still a call of a module."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from problems import gear_problem

import diffplan as dp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tests" / "typed_calls.py"
REVEALED = re.compile(r'(?:Revealed t|T)ype (?:of ".*" )?is "([\w.]+)"')


def expected() -> dict[int, str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {
        number: line.rsplit("  # ", 1)[1]
        for number, line in enumerate(lines, 1)
        if "  # " in line
    }


def told(messages: list[tuple[int, str]]) -> dict[int, str]:
    """Return by line the type that is revealed, without its module, or "error"."""
    found = {}
    for line, message in messages:
        match = REVEALED.search(message)
        found[line] = match[1].rsplit(".", 1)[-1] if match else "error"
    return found


def run(*command: str, cwd: Path) -> str:
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    command = (sys.executable, "-m", *command)
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    return done.stdout


def test_mypy_knows_what_a_call_returns() -> None:
    # From the root, whose settings and cache `nox -s types` has used already.
    answer = run("mypy", "--no-error-summary", "--output=json", str(PAGE), cwd=ROOT)
    messages = [json.loads(line) for line in answer.splitlines()]
    own = [each for each in messages if each["file"] == "tests/typed_calls.py"]
    assert told([(each["line"], each["message"]) for each in own]) == expected()


@pytest.mark.skipif(
    find_spec("basedpyright") is None, reason="basedpyright is not installed"
)
def test_pyright_knows_what_a_call_returns(tmp_path: Path) -> None:
    """By basedpyright: pyright itself would fetch a Node.js when it is first run."""
    settings = {"extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    shutil.copy(PAGE, tmp_path)
    command = ("basedpyright", "--outputjson", "--pythonpath", sys.executable)
    answer = json.loads(run(*command, cwd=tmp_path))
    messages = [
        (each["range"]["start"]["line"] + 1, each["message"])
        for each in answer["generalDiagnostics"]
    ]
    assert told(messages) == expected()


def test_a_typed_call_has_the_arguments_of_forward() -> None:
    found = 0
    for path in sorted((ROOT / "diffplan").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for each in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            methods = {m.name: m for m in ast.walk(each) if hasattr(m, "returns")}
            call, forward = methods.get("__call__"), methods.get("forward")
            if call and forward:
                found += 1
                assert ast.dump(call.args) == ast.dump(forward.args), path
                assert ast.dump(call.returns) == ast.dump(forward.returns), path
    assert found


def test_hooks_of_a_planner_are_called() -> None:
    (problem, state), seen = gear_problem(), []
    planner = dp.CEM(2, num_samples=8, num_elites=2, iterations=1)
    planner.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    planner.register_forward_hook(lambda module, given, plan: plan.shifted())
    plan = planner(problem, state)
    assert seen == [state]
    assert torch.equal(plan.actions[:, 0], plan.actions[:, 1])
