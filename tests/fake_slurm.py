"""The commands of Slurm, as far as submitit calls them, played with processes."""

import os
from pathlib import Path

import pytest

COMMANDS = {
    "sbatch": """
id=$(( $(ls "$FAKE_SLURM" | grep -c script) + 1 ))
cp "$1" "$FAKE_SLURM/$id.script"
echo PENDING > "$FAKE_SLURM/$id.state"
setsid play_job $id > /dev/null 2>&1 < /dev/null &
echo "Submitted batch job $id"
""",
    "play_job": """
job="$FAKE_SLURM/$1"
while
  rm -f $job.requeue
  echo RUNNING > $job.state
  SLURM_JOB_ID=$1 bash $job.script && ended=COMPLETED || ended=FAILED
  [ -e $job.requeue ]
do :; done
echo $ended > $job.state
""",
    "srun": """
shift; while [[ $1 == --* ]]; do shift 2; done  # --unbuffered, then options with values
exec "$@"
""",
    "sacct": """
echo "JobID|State|NodeList"
for path in "$FAKE_SLURM"/*.state; do
  echo "$(basename $path .state)|$(cat $path)|here"
done
""",
    "scontrol": 'touch "$FAKE_SLURM/$2.requeue"',
}


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the commands first on the path."""
    folder.mkdir()
    for name, text in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text.strip()}\n")
        (folder / name).chmod(0o755)
    jobs = folder / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
