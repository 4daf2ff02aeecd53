"""Write the published pages again, after a change of their texts or rules.

    python -m reproductions.pages

Nothing runs: tables and verdicts are computed from the ledgers and records beside them,
as `publish` does. Pictures stay as they are, for their numbers have not moved.
"""

import shutil
import tempfile
from pathlib import Path

from reproductions.common import results
from reproductions.common.experiment import papers
from reproductions.common.page import write_page

if __name__ == "__main__":
    for paper in papers():
        for page in sorted(paper.folder.glob("results/*/README.md")):
            home, preset = page.parent, page.parent.name
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(scratch) / "copy"
                shutil.copytree(home, copy)
                write_page(paper, Path(scratch) / "no runs", copy, preset)
                for picture in home.glob("*.png"):
                    shutil.copy2(picture, copy)
                results.install(copy, home, paper.name, preset)
