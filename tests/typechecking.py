"""The run-time type checker of the test suite, named by `conftest.py`."""

from beartype import BeartypeConf, beartype

# As type checkers have it: an int is welcome where a float is expected.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
