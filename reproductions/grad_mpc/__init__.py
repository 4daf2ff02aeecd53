"""Gradient-based planning with world models (arXiv:2312.17227)."""
