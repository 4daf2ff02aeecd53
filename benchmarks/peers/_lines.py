"""How workers talk: they answer JSON lines, one request at a time.

A request that fails is answered by {"error": "…"}. Standard output belongs to the
answers: what a library prints goes to standard error. Nothing here needs a package.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def answer_lines(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # reported to the driver, whatever it is
            found = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(found) + "\n")
        answers.flush()
