"""The daemon's file descriptors: what lives long never takes those that healing needs.

A start, a fork server and a client hold descriptors for as long as they live; breaking a lease,
reading /proc and writing a report need a few for a moment. A start that would leave too few is put
off, so that the moment's work never fails for want of them.
"""

from __future__ import annotations

import errno
import os
import resource

CLIENTS = 32  # of the control socket, at most
MOMENTARY = 16  # open at once while something is healed, reported or asked
ENOUGH = 1 << 16  # more than workers can be; who closes them one by one must come to an end


def raise_limit() -> None:
    """Allow as many descriptors as the hard limit does: the soft one is for select(2) alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_room() -> None:
    """Raise OSError (EMFILE) where one more that lives long would leave too few."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the names alone, for each start
    if limit - used < CLIENTS + MOMENTARY:
        raise OSError(
            errno.EMFILE,
            f"too few file descriptors are left; {limit} are allowed (LimitNOFILE, ulimit -n)",
        )
