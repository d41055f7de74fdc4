"""What both forms of the environment say of an episode: how it ended, and the keys of `info`."""

from __future__ import annotations

#: Seeds that an environment draws for its provider lie below this.
SEEDS = 1 << 62
#: Values of `info["ended"]` in the last step of an episode.
RUIN, END_OF_DATA, STEP_LIMIT = "ruin", "end of data", "step limit"
#: Keys of `info` that every step has.
INFO = ("cash", "equity", "costs", "fills", "reasons", "step", "ts_event")
