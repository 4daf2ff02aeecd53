"""The differentiable cross-entropy method (Amos and Yarats, ICML 2020), reproduced."""
