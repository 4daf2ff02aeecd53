"""Pure tensor mathematics; imports torch alone."""

from diffplan.functional.rollout import rollout

__all__ = ["rollout"]
