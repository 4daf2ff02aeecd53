"""Commonest first mistakes are answered in our words; what is meant well is welcome."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from first_mistakes import MISTAKES, WELCOME

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, str(TESTS / "first_mistakes.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_by_name(name: str, answers: dict[str, Any]) -> None:
    refused, words = answers["refused"][name]
    assert refused, words
    assert MISTAKES[name][1] in words


@pytest.mark.parametrize("name", WELCOME)
def test_what_is_meant_well_is_welcome(name: str, answers: dict[str, Any]) -> None:
    same, words = answers["welcome"][name]
    assert same, words
