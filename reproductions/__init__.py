"""Papers reproduced: one folder each, run as `python -m reproductions.<paper>`."""
