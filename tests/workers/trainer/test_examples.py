"""The examples in the docstrings that users of the trainer meet first."""

from __future__ import annotations

import doctest

import pytest

from workers.trainer import callbacks
from workers.trainer.td3 import algorithm


@pytest.mark.parametrize(
    ("module", "name"), [(algorithm, "TD3"), (callbacks, "SHMWeightSyncCallback")]
)
def test_examples_of_docstrings_run(module, name):
    """Each example does what it shows."""
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(getattr(module, name), name, module)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0
