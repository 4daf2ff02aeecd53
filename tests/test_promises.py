"""The page of promises is written from the checks and the planners."""

import importlib.util
from pathlib import Path

import pytest
from planner_cases import CASES
from torch import Tensor

import diffplan as dp
from diffplan.testing import PLANNER_CHECKS

SCRIPT = Path(__file__).parents[1] / "docs" / "promise_table.py"
SPEC = importlib.util.spec_from_file_location("promise_table", SCRIPT)
promise_table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(promise_table)


def test_the_page_shows_every_promise_and_planner() -> None:
    page = promise_table.PAGE.read_text(encoding="utf-8")
    assert page == promise_table.page_with_table(page), (
        "run `python docs/promise_table.py`"
    )
    for check in PLANNER_CHECKS:
        assert f"`{check.__name__.removeprefix('check_')}`" in page
    for case in CASES:
        assert f"`{type(case.build()).__name__}`" in page


def check_patience(
    planner: dp.Planner, problem: dp.PlanningProblem, state: Tensor
) -> None:
    """A planner waits. One that cannot declares `hurries`."""


def test_a_planner_that_is_exempt_says_why() -> None:
    calm, hasty = dp.CEM(3), dp.CEM(3)
    hasty.hurries = True
    assert promise_table.promise(check_patience) == "A planner waits"
    assert promise_table.cell(check_patience, [calm]) == "yes"
    assert promise_table.cell(check_patience, [hasty]) == "does not apply: `hurries`"
    assert "in some settings" in promise_table.cell(check_patience, [calm, hasty])


def test_a_check_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="docstring"):
        promise_table.promise(lambda planner, problem, state: None)
