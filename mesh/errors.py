"""Every error of the mesh: what happened, where, both values, and what to do.

A leaf module. One type for each thing a caller can do something about.
"""


class MeshError(Exception):
    """Anything the mesh refuses or finds broken."""


class SegmentMissing(MeshError):
    """The segment is not there (yet), or was replaced since it was attached."""


class SegmentExists(MeshError):
    """`exclusive=True` found the segment there already."""


class SchemaMismatch(MeshError):
    """The segment holds another schema, kind or size than was asked for."""


class LayoutMismatch(MeshError):
    """The segment was made by another layout version or before the last boot."""


class NotWritten(MeshError):
    """There is no value before the first write."""


class LeaseHeld(MeshError):
    """Another live process is the segment's writer."""


class LeaseLost(MeshError):
    """The object is not, or no longer, the writer of its segment; nothing was published."""


class Corrupt(MeshError):
    """The bytes contradict themselves; no value was returned."""


class MeshFull(MeshError):
    """The file system has no room for the segment."""


class LockTimeout(MeshError):
    """The lock was not free in time; the message names its owner and whether it lives."""


class AccessDenied(MeshError):
    """The directory or the segment may not be opened by this user."""


class InvalidName(MeshError, ValueError):
    """A segment name that would leave the directory, or has characters that names may not have."""


class Overtaken(MeshError):
    """What was borrowed has been overwritten meanwhile; do not use what was derived from it."""
