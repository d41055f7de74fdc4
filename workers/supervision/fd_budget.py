"""The daemon's file descriptors: some are kept free for the work of healing.

A worker, a fork server and a client hold descriptors for as long as they live; breaking a lease,
reading /proc and writing a report need a few for a moment. A start that would leave too few is put
off, so that this short work never fails for lack of them.
"""

from __future__ import annotations

import errno
import resource

from mesh.procfs import open_descriptors

CLIENTS = 32  # of the control socket, at most
MOMENTARY = 16  # open at once while something is healed, reported or asked
ENOUGH = 1 << 16  # more than any number of workers needs, few enough to close one by one


def raise_limit() -> None:
    """Raise the soft limit to the hard one, as far as is sensible; it only protects select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require_room() -> None:
    """Make sure that one more long-lived descriptor leaves enough free.

    Raises:
        OSError: With EMFILE: it does not.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit - open_descriptors() < CLIENTS + MOMENTARY:
        raise OSError(
            errno.EMFILE,
            f"too few file descriptors are left; {limit} are allowed (LimitNOFILE, ulimit -n)",
        )
