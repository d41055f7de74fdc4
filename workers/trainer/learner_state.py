"""Everything a learner is, as named arrays: for shared memory, for disk, and back.

Weights, targets, moments, counters and the state of both random generators: a learner made from
it goes on bit for bit as the one it was taken from would have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from workers.trainer.replay import Replay
    from workers.trainer.update import Learner

Array = np.ndarray[Any, np.dtype[Any]]
MASK = (1 << 64) - 1


class StateMismatch(Exception):
    """The arrays are of another network."""


def take(learner: Learner, replay: Replay) -> dict[str, Array]:
    """Give copies of everything."""
    arrays: dict[str, Array] = {
        "updates": np.array(learner.updates, np.int64),
        "losses": np.array([learner.critic_loss, learner.actor_loss], np.float64),
        "torch_random": learner.generator.get_state().numpy().copy(),
        "numpy_random": _words(replay.dice),
    }
    for name, network in (("actor", learner.actor), ("critics", learner.critics)):
        for part, tensor in network.state().items():
            arrays[f"{name}_{part}"] = tensor.numpy().copy()
    return arrays


def put(learner: Learner, replay: Replay, arrays: dict[str, Array]) -> None:
    """Make the learner what the arrays say. Raises StateMismatch before anything is changed."""
    present = take(learner, replay)
    for name, array in present.items():
        found = arrays.get(name)
        if found is None or found.shape != array.shape or found.dtype != array.dtype:
            raise StateMismatch(
                f"{name!r} is {None if found is None else found.shape}, this network has "
                f"{array.shape}; remove the state to begin anew"
            )
    for name, network in (("actor", learner.actor), ("critics", learner.critics)):
        for part, tensor in network.state().items():
            tensor.copy_(torch.from_numpy(arrays[f"{name}_{part}"].copy()))
    learner.updates = int(arrays["updates"])
    learner.critic_loss, learner.actor_loss = arrays["losses"].tolist()
    learner.generator.set_state(torch.from_numpy(arrays["torch_random"].copy()))
    _set_words(replay.dice, arrays["numpy_random"])


def _words(dice: np.random.Generator) -> Array:
    """PCG64's state as six 64-bit words."""
    state: dict[str, Any] = dict(dice.bit_generator.state)
    number, increment = state["state"]["state"], state["state"]["inc"]
    return np.array(
        [
            number & MASK, number >> 64, increment & MASK, increment >> 64,
            state["has_uint32"], state["uinteger"],
        ],
        np.uint64,
    )  # fmt: skip


def _set_words(dice: np.random.Generator, words: Array) -> None:
    low, high, inc_low, inc_high, has, value = (int(word) for word in words)
    dice.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high << 64 | low, "inc": inc_high << 64 | inc_low},
        "has_uint32": has,
        "uinteger": value,
    }
