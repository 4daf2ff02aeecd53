"""LatCo (Rybkin et al., ICML 2021): see `python -m reproductions.latco --help`."""
