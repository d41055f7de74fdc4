"""The protocols under spin: every interleaving, deaths included; and seeded bugs that it finds.

The models lie beside this file. spin knows sequential consistency; what weaker memory does to the
same protocols is in test_memory_model.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODELS = [
    ("cell", ""),
    ("cell", "FENCE"),
    ("ring", ""),
    ("ring", "STATE"),
    ("lock", ""),
    ("lease", ""),
]
SEEDS = [
    ("cell", "", 1, "quiet"),
    ("cell", "", 2, "x==y"),
    ("cell", "", 3, "x==y"),
    ("cell", "FENCE", 4, "epoch==1"),
    ("ring", "", 1, "y=="),
    ("ring", "", 2, "x=="),
    ("ring", "STATE", 3, "total<=published"),
    ("ring", "STATE", 4, "total<=published"),
    ("ring", "STATE", 5, "total<=published"),
    ("lock", "", 1, "alive"),
    ("lock", "", 2, "alive"),
    ("lock", "", 3, "alive"),
    ("lease", "", 1, "p==s"),
    ("lease", "", 2, "p==s"),
    ("lease", "", 3, "dead"),
]


def verified(directory, model, *defines):
    """Run spin over a model: (errors, states, what it printed)."""
    for tool in ("spin", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {tool}")
    flags = [f"-D{define}" for define in defines if define]

    def run(*command):
        return subprocess.run(
            [str(part) for part in command],
            cwd=directory,
            capture_output=True,
            text=True,
            check=True,
            timeout=200,
        ).stdout

    run("spin", *flags, "-a", HERE / f"{model}.pml")
    run("gcc", "-O1", "-w", "-DSAFETY", "-DMEMLIM=2000", "-o", "pan", "pan.c")
    text = run("./pan", "-E", "-m100000")  # -E: a process may wait for ever, a death takes its turn
    errors = int(re.search(r"errors: (\d+)", text)[1])
    states = int(re.search(r"(\d+) states, stored", text)[1])
    assert "max search depth too small" not in text
    return errors, states, text


@pytest.mark.parametrize(("model", "define"), MODELS)
def test_i2_no_interleaving_breaks_the_protocol(tmp_path, model, define):
    """Every interleaving of the model, a death at every step included, keeps its assertions."""
    errors, states, text = verified(tmp_path, model, define)
    assert errors == 0, text
    assert states > 1000


@pytest.mark.model
@pytest.mark.parametrize(("model", "define", "seed", "assertion"), SEEDS)
def test_seeded_bug_is_found(tmp_path, model, define, seed, assertion):
    """The same model with one protecting line removed or turned round has a counter-example."""
    errors, _, text = verified(tmp_path, model, define, f"SEED={seed}")
    assert errors > 0
    assert assertion in re.search(r"assertion violated ([^\n]*)", text)[1]
