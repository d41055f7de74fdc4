"""Everything a learner is, as named arrays: for shared memory, for disk, and back.

Weights, targets, moments, counters and the state of both random generators: a learner made from
it goes on bit for bit as the one it was taken from would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workers.trainer.replay.priorities import MARKS_SIZE
from workers.trainer.replay.ring import Origin

if TYPE_CHECKING:
    from mesh.arrays import Array
    from workers.trainer.replay.ring import RingReplay
    from workers.trainer.td3.update import Update

WORD_MASK = (1 << 64) - 1
RNG_WORDS = 6


class StateMismatch(Exception):
    """The arrays are of another network."""


def capture(update: Update, replay: RingReplay) -> dict[str, Array]:
    """Return the whole state of a learner.

    Args:
        update: one with a generator of its own, as a worker's has.
        replay: where it samples.

    Returns:
        Arrays by name, views of the learner's memory where they lie on this side: write them away
        before the next update.
    """
    arrays: dict[str, Array] = {n: t.cpu().numpy() for n, t in update.state().items()}
    arrays["updates"] = np.array(update.updates, np.int64)
    arrays["lr_factor"] = np.array(update.lr_factor, np.float64)
    arrays["origin"] = np.array(replay.origin, np.int64)
    if replay.priorities is not None:
        arrays["priorities"], arrays["marks"] = replay.priorities.values, replay.priorities.marks
    arrays["numpy_random"] = _words(replay.rng)
    return arrays


def restore(update: Update, replay: RingReplay, arrays: Mapping[str, Array]) -> None:
    """Set the whole state of a learner.

    Args:
        update: of the same network.
        replay: where it samples.
        arrays: as `capture` returned them.

    Raises:
        StateMismatch: an array is missing or of another shape; nothing was changed.
    """
    present = update.state()
    wanted = {name: tuple(tensor.shape) for name, tensor in present.items()}
    wanted |= {"updates": (), "lr_factor": (), "origin": (3,), "numpy_random": (RNG_WORDS,)}
    if replay.priorities is not None:
        wanted |= {"priorities": replay.priorities.values.shape, "marks": (MARKS_SIZE,)}
    for name, shape in wanted.items():
        found = arrays.get(name)
        if found is None or found.shape != shape:
            raise StateMismatch(
                f"{name!r} is {None if found is None else found.shape}, this network has "
                f"{shape}; remove the state to begin anew"
            )
    update.set_state({name: torch.from_numpy(arrays[name]) for name in present})
    update.updates, update.lr_factor = int(arrays["updates"]), float(arrays["lr_factor"])
    origin = Origin(*arrays["origin"].tolist())
    if origin.generation == replay.origin.generation:
        replay.origin = origin
        if replay.priorities is not None:
            replay.priorities.values[:] = arrays["priorities"]
            replay.priorities.marks[:] = arrays["marks"]
    else:  # another ring, as after a reboot: its records earn updates from now on
        replay.origin = replay.origin._replace(updates=update.updates)
    _set_words(replay.rng, arrays["numpy_random"])


def _words(rng: np.random.Generator) -> Array:
    """PCG64's state as six 64-bit words."""
    state: dict[str, Any] = dict(rng.bit_generator.state)
    number, increment = state["state"]["state"], state["state"]["inc"]
    return np.array(
        [
            number & WORD_MASK,
            number >> 64,
            increment & WORD_MASK,
            increment >> 64,
            state["has_uint32"],
            state["uinteger"],
        ],
        np.uint64,
    )


def _set_words(rng: np.random.Generator, words: Array) -> None:
    low, high, inc_low, inc_high, has, value = (int(word) for word in words)
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has,
        "uinteger": value,
    }
