"""Settings of everything: models with ranges, shipped profiles, one report of every problem."""

from config import one_thread
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
