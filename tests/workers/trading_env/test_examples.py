"""The examples in the docstrings that users read first are executed."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "workers.trading_env.market.pricing",
        "workers.trading_env.env.environment",
        "workers.trading_env.providers.checker",
    ],
)
def test_examples_run_as_written(module):
    """Every example of the module prints what its docstring says, and there is one at least."""
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
