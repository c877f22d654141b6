"""The largest part of the enumeration (see test_every_moment.py), in a file of its own: it runs beside the rest."""

import pytest

from .shapes import graphs
from .test_every_moment import enumerate_all

PARTS = 6


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(1, PARTS + 1))
def test_all_or_nothing_at_every_moment_of_five_steps(part, record_property):
    enumerate_all(graphs(5)[part - 1 :: PARTS], record_property)
