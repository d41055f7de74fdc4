"""Whether a policy may replace the published one, by their scores on held-out episodes."""

from __future__ import annotations

import math


def is_worse(score: float, published: float, tolerance: float) -> bool:
    """Return whether a policy of `score` should not replace one of `published`.

    Args:
        score: Mean reward a step of the new policy; NaN if it was not evaluated.
        published: The same of the published policy; NaN if it was not evaluated.
        tolerance: By which share of |published| the score may be lower.
    """
    if math.isnan(published):
        return False
    return math.isnan(score) or score < published - tolerance * abs(published)
