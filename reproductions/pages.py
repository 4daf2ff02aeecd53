"""Write the published pages again, after a change of their texts or rules.

    python -m reproductions.pages

Nothing runs: tables and verdicts are computed from the ledgers and records beside them,
as `publish` does. Pictures stay as they are, for their numbers have not moved.
"""

import shutil
import tempfile
from pathlib import Path

from reproductions.common import results
from reproductions.common.experiment import Paper, papers
from reproductions.common.page import write_page


def made_again(paper: Paper, home: Path, folder: Path) -> Path:
    """Make a published page again in a copy of its folder; return the page.

    Args:
        paper: Whose it is.
        home: Where it is published, a folder with the name of the preset.
        folder: The copy, made unless it exists.
    """
    if not folder.exists():
        shutil.copytree(home, folder)
    return write_page(paper, folder / "none", folder, home.name)


if __name__ == "__main__":
    for paper in papers():
        for page in sorted(paper.folder.glob("results/*/README.md")):
            home = page.parent
            with tempfile.TemporaryDirectory() as scratch:
                copy = made_again(paper, home, Path(scratch) / "copy").parent
                for picture in home.glob("*.png"):
                    shutil.copy2(picture, copy)
                results.install(copy, home, paper.name, home.name)
