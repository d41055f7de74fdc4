"""The C extensions and their sanitizer switch; everything else is in pyproject.toml.

`MESH_SANITIZE=address,undefined` (or `thread`) builds the extensions with these sanitizers.
"""

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-g"]
FLAGS.append("-fno-math-errno")  # a root that may set errno is none of the vector units'
SHARED = "mesh/_core"  # headers that every extension may include
EXTENSIONS = {
    "mesh._core._native": ["mesh/_core/module.c"],
    "workers.ingest.decode._avro._native": ["workers/ingest/decode/_avro/module.c"],
    "workers.ingest.quality._checks._native": ["workers/ingest/quality/_checks/module.c"],
    "workers.trading_env.account._kernel": ["workers/trading_env/account/_kernel.c"],
    "workers.trainer.td3._matmul._native": ["workers/trainer/td3/_matmul/module.c"],
    "workers.trainer.td3._adam": ["workers/trainer/td3/_adam.c"],
    "workers.replayer._encode": ["workers/replayer/_encode.c"],
}


def missing_tool() -> str | None:
    """Name what the build lacks, with the package that brings it (None when nothing is missing)."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    if shutil.which(compiler.split()[0]) is None and shutil.which("cc") is None:
        name = compiler.split()[0]
        return f"no C compiler ({name!r} is not on PATH): apt-get install gcc libc6-dev"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return f"no Python headers for {version}: apt-get install python{version}-dev"
    return None


if problem := missing_tool():
    sys.exit(f"tradingmesh cannot be built: {problem}")

if platform.machine() == "x86_64":
    FLAGS.append("-mcx16")  # the mesh publishes by a 16-byte compare-and-swap

sanitize = os.environ.get("MESH_SANITIZE")
extra = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"] if sanitize else []
setup(
    ext_modules=[
        Extension(
            name,
            sources,
            depends=[*map(str, Path(sources[0]).parent.glob("*.h")), SHARED + "/py_arrays.h"],
            include_dirs=[SHARED],
            # -isystem: their warnings are theirs
            extra_compile_args=[*FLAGS, "-isystem", np.get_include(), *extra],
            extra_link_args=extra,
        )
        for name, sources in EXTENSIONS.items()
        if Path(sources[0]).exists()
    ]
)
