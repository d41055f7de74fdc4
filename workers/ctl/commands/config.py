"""`meshctl config check`: check a configuration with the daemon's own code."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn


def config(options: argparse.Namespace) -> NoReturn:
    """Replace this process by `meshd --check`, which starts no workers."""
    settings = [word for each in options.set for word in ("--set", each)]
    profile = ["--profile", options.profile] if options.profile else []
    command = [sys.executable, "-P", "-m", "supervisor", "--check", *profile, *settings]
    os.execv(sys.executable, command)  # noqa: S606 - our own module
