"""`meshctl config check`: what the daemon would say to a configuration."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn


def config(options: argparse.Namespace) -> NoReturn:
    """Become `meshd --check`, which starts nothing: only the daemon knows its settings."""
    settings = [word for each in options.set for word in ("--set", each)]
    profile = ["--profile", options.profile] if options.profile else []
    command = [sys.executable, "-P", "-m", "supervisor", "--check", *profile, *settings]
    os.execv(sys.executable, command)  # noqa: S606 - our own module
