"""What the tests of the importers share."""

import re

import pytest
from oracle import assert_same_bits


def refused(error, text, call):
    """Hold what an error says against a pattern, and give it."""
    with pytest.raises(error) as caught:
        call()
    # Not str(): that of a KeyError is quoted.
    said = caught.value.args[0]
    assert re.search(text, said), said
    return said


def same_weights(actual, expected):
    """Hold two layers' weights against each other, by name and bit for bit."""
    assert actual.weights.keys() == expected.weights.keys()
    for name, array in expected.weights.items():
        assert_same_bits(actual.weights[name], array, name)
