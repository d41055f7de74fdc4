"""Names that processes share: segments, and the keys of segments that belong to one worker.

Imports nothing, so that the commands of `meshctl` start fast.
"""

TICKS = "ticks"
QUOTES = "quotes"
MARKET = "market"
EXPERIENCE = "experience"
EVENTS = "events"
BROKER = "broker"
SUPERVISOR = "supervisor"
LEADERBOARD = "leaderboard"

POLICY_PREFIX = "policy/"
STATUS_PREFIX = "status/"


def policy_segment(trainer: str) -> str:
    """Name of the tensors segment that holds the published policy of `trainer`."""
    return f"{POLICY_PREFIX}{trainer}"


def learner_segment(trainer: str) -> str:
    """Name of the tensors segment that holds the learner state of `trainer`."""
    return f"learner/{trainer}"


def status_segment(worker: str) -> str:
    """Name of the cell in which `worker` publishes its status Struct."""
    return f"{STATUS_PREFIX}{worker}"


def cursor_segment(reader: str) -> str:
    """Name of the cell in which `reader` publishes its position in a ring."""
    return f"cursor/{reader}"
