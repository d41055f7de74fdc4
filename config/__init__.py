"""Settings of everything: models with ranges, shipped profiles, one report of every problem.

The models load when they are first asked for: `config.declaration`, which `meshctl status` reads,
must not pay for pydantic.
"""

import importlib
from typing import TYPE_CHECKING

from config import one_thread

if TYPE_CHECKING:
    from config.problems import EXIT_CONFIGURATION, ConfigProblems, Problem
    from config.settings import Settings, load_settings

__all__ = [
    "EXIT_CONFIGURATION",
    "ConfigProblems",
    "Problem",
    "Settings",
    "load_settings",
    "one_thread",
]
_HOMES = {
    "EXIT_CONFIGURATION": "config.problems",
    "ConfigProblems": "config.problems",
    "Problem": "config.problems",
    "Settings": "config.settings",
    "load_settings": "config.settings",
}


def __getattr__(name: str) -> object:
    """Load what is asked for from its module.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'config' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
