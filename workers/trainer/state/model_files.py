"""A model of the train command on disk: the zip, the arrays, and the experience to go on with.

Beside FILE.zip and FILE.npz lie FILE.best.zip and FILE.best.npz, the model with the best score of
the evaluations so far, and after an early end FILE.replay.pkl.

Files are written whole and renamed into place: a run that is killed while it saves leaves the
model that was there before.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.save_util import load_from_zip_file

from workers.runtime.atomic_file import write_whole
from workers.trainer.publish.publisher import policy_arrays
from workers.trainer.replay.frames import FrameReplay

if TYPE_CHECKING:
    from pathlib import Path

    from workers.trainer.td3.algorithm import TD3

EXPERIENCE = ".replay.pkl"


class CannotResume(Exception):
    """There is no such model, or it is of another kind than the settings describe."""


def writable(path: Path) -> None:
    """Check, before hours of training, that a model can be saved there.

    Raises:
        OSError: The directory or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    probe = path.with_suffix(".tmp")
    probe.write_bytes(b"")
    probe.unlink()


def save(model: TD3, path: Path, *, with_experience: bool) -> None:
    """Write `path` (.zip) and the arrays beside it; the experience too, or remove an older one."""
    save_model(model, path)
    experience = path.with_suffix(EXPERIENCE)
    if with_experience:
        content = pickle.dumps(model.replay_buffer, pickle.HIGHEST_PROTOCOL)
        write_whole(experience, content, temporary=path.with_suffix(".tmp").name)
    else:
        experience.unlink(missing_ok=True)


def save_model(model: TD3, path: Path, *, score: float = math.nan) -> list[Path]:
    """Write `path` (.zip) and the arrays beside it, and return both paths.

    Raises:
        OSError: One of them cannot be written.
    """
    updates = model._n_updates  # noqa: SLF001 - of our own class
    files = [path.with_suffix(".zip"), path.with_suffix(".npz")]
    contents = file_contents(model, updates=updates, score=score)
    for file, content in zip(files, contents, strict=True):
        write_whole(file, content, temporary=path.with_suffix(".tmp").name)
    return files


def file_contents(model: TD3, *, updates: int, score: float) -> tuple[bytes, bytes]:
    """Return what the zip of stable-baselines3 and the file of arrays hold."""
    model._n_updates = updates  # noqa: SLF001 - of our own class; a worker counts in its update
    arrays: dict[str, Any] = policy_arrays(model.policy, updates=updates, score=score)
    packed, plain = io.BytesIO(), io.BytesIO()
    model.save(packed)
    np.savez(plain, allow_pickle=False, **arrays)
    return packed.getvalue(), plain.getvalue()


def best_path(path: Path) -> Path:
    """Where the best model (.zip) beside the model `path` lies."""
    return path.with_suffix(".best.zip")


def best_arrays(path: Path) -> dict[str, Any] | None:
    """Return the arrays of the best model beside `path`; None where there is no whole one."""
    file = best_path(path).with_suffix(".npz")
    with (
        suppress(OSError, ValueError, zipfile.BadZipFile, EOFError),
        np.load(file, allow_pickle=False) as arrays,
    ):
        found = dict(arrays)
        return found if {"score", "updates"} <= found.keys() else None
    return None


def forget_best(path: Path) -> None:
    """Remove a best model that is of another run than the model `path`."""
    for suffix in (".zip", ".npz"):
        best_path(path).with_suffix(suffix).unlink(missing_ok=True)


def run_of(path: Path) -> str:
    """Return the id under which the model at `path` was tracked; empty: none is known."""
    with suppress(OSError, ValueError, pickle.UnpicklingError):
        data, _, _ = load_from_zip_file(path, device="cpu")
        return str((data or {}).get("run_id", ""))
    return ""


def resume(model: TD3, path: Path) -> None:
    """Continue with a fresh model where the one at `path` was.

    Weights, moments and counters come from the zip, everything else from the fresh model. Without
    the experience (a run that was complete) new experience is collected first, as at the start.

    Raises:
        CannotResume: The file cannot be read, or holds another network or no counters.
    """
    try:
        data, parameters, _ = load_from_zip_file(path, device=model.device)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise CannotResume(f"{path}: {error}; train without --resume first") from error
    try:
        model.set_parameters(parameters, exact_match=True, device=model.device)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CannotResume(
            f"{path} holds another network than the settings describe: {reason}; resume it with "
            "the settings it was trained with"
        ) from error
    if data is None:
        raise CannotResume(f"{path} holds weights alone, without counters; train without --resume")
    model.num_timesteps = data["num_timesteps"]
    model._n_updates = data["_n_updates"]  # noqa: SLF001 - of our own class
    model._episode_num = data["_episode_num"]  # noqa: SLF001 - of our own class
    experience = path.with_suffix(EXPERIENCE)
    if not experience.exists():
        model.learning_starts += model.num_timesteps
        return
    try:
        found = pickle.loads(experience.read_bytes())  # noqa: S301 - our own file, as a model is
    except (pickle.UnpicklingError, EOFError, AttributeError) as error:
        raise CannotResume(f"{experience} is not whole ({error}); remove it") from error
    fresh = model.replay_buffer
    if not isinstance(found, FrameReplay) or fresh is None or found.n_envs != fresh.n_envs:
        lanes = getattr(found, "n_envs", "no")
        raise CannotResume(
            f"{experience} holds experience of {lanes} lanes, not of {model.n_envs}; resume with "
            "as many, or remove it"
        )
    found.device = model.device
    model.replay_buffer = found
