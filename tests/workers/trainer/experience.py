"""Experience for the tests: lanes of episodes with frames that name their place."""

from __future__ import annotations

import numpy as np

from workers.contract.dtypes import EXPERIENCE_DTYPE


def steps(count, lanes, *, start=0, seed=0, episode=13):
    """`count` steps of `lanes` lanes as one array, lane by lane of each step.

    A frame's first three features are lane, episode and step; episodes end after `episode` steps,
    shifted by lane, every second one by termination.
    """
    rng = np.random.default_rng([seed, start])
    records = np.zeros((count, lanes), EXPERIENCE_DTYPE)
    lane = np.arange(lanes)
    for row in range(count):
        place = start + row + 3 * lane
        record = records[row]
        record["lane"], record["lanes"] = lane, lanes
        record["episode"], record["step"] = place // episode + 1, place % episode
        if start + row == 0:
            record["first"] = True
            record["step"] = 0
        record["first"] |= place % episode == 0
        ends = place % episode == episode - 1
        record["terminated"] = ends & (record["episode"] % 2 == 0)
        record["truncated"] = ends & (record["episode"] % 2 == 1)
        record["frame"][:, 3:] = rng.standard_normal((lanes, 97))
        record["frame"][:, 0], record["frame"][:, 1] = lane, record["episode"]
        record["frame"][:, 2] = record["step"]
        record["action"] = rng.uniform(-1, 1, (lanes, 10))
        record["reward"] = record["action"][:, 0]
    return records.reshape(-1)
