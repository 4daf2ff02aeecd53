"""Runs on any task, by settings: what the command line and the reproductions share."""
