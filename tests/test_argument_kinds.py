"""Public functions and classes refuse arguments of another kind, by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def test_arguments_of_another_kind_are_refused_by_name() -> None:
    done = subprocess.run(
        [sys.executable, str(TESTS / "argument_kinds.py")],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout)
    assert len(answers) > 4000
    wrong = [f"{call}: {words}" for call, refused, words in answers if not refused]
    assert not wrong, "\n".join(wrong)
