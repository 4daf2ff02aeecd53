"""What needs packages of its own runs in `nox -s tests_adapters` and nowhere else."""

import os

collect_ignore = []
if "DIFFPLAN_ADAPTERS" not in os.environ:
    collect_ignore += [
        *("test_record_video.py", "test_stable_worldmodel.py", "test_torchrl.py"),
    ]
