"""What the package of a worker declares about it; everything else in the system reads it here.

A package declares its worker with a constant in its `__init__.py`:

    from config.declaration import PLAIN, StatusSummary, WorkerDeclaration

    WORKER = WorkerDeclaration(
        sections=("guardian", "trading"),
        fork_server=PLAIN,
        status=StatusSummary("GuardianStatus", totals={"clamped": "clamped"}),
    )

The configuration (`nursery`, production check), the reload, the fork server, `meshctl` and the
style tests read these declarations, so none of them knows a worker by name. A worker outside any
package that declares one has the defaults of `WorkerDeclaration`.

`meshctl status` imports the declaring packages at every call, and the daemon imports them before it
forks. So this module and each `__init__.py` with a declaration import nothing but the standard
library and each other. A package is imported only if its `__init__.py` has a line that begins with
`WORKER`: a user's package that imports torch at its top and declares nothing is never loaded here.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

NAME = "WORKER"
_LINE = b"\n" + NAME.encode()


class ForkServerGroup:
    """A fork server: one warm process that has imported what its workers need."""

    __slots__ = ("imports", "name", "warm_up")

    def __init__(self, name: str, imports: Iterable[str], warm_up: str = "") -> None:
        """Name a group and what it loads.

        Args:
            name: value of the key `nursery` that chooses this group
            imports: modules that the fork server imports
            warm_up: `package.module:function` without arguments, called once after the imports
        """
        self.name = name
        self.imports = tuple(imports)
        self.warm_up = warm_up


class Refusal:
    """A setting that production refuses while a worker of the declaring package is enabled."""

    __slots__ = ("key", "reason", "refuses", "remedy")

    def __init__(self, key: str, refuses: Callable[[Any], bool], reason: str, remedy: str) -> None:
        """Say which values of a key are refused.

        Args:
            key: dotted; below a table of free keys the rest is one key; `workers`: the worker
            refuses: whether a value is refused; it is None where a free table lacks the key
            reason: why, as the report of problems says it
            remedy: what the operator can do
        """
        self.key = key
        self.refuses = refuses
        self.reason = reason
        self.remedy = remedy


class StatusSummary:
    """How `meshctl status` sums up the status cells of one type."""

    __slots__ = ("describe", "maxima", "publishes_policy", "struct", "tables", "totals")

    def __init__(
        self,
        struct: str,
        *,
        totals: Mapping[str, str] | None = None,
        tables: Mapping[str, str] | None = None,
        maxima: Mapping[str, str] | None = None,
        publishes_policy: bool = False,
        describe: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        """Say what the fields of a status become.

        Args:
            struct: name of the status Struct
            totals: key of `flow` -> integer field that is added up over the workers
            tables: key of `flow` -> field with a table of integers, added up key by key
            maxima: key of `flow` -> field whose maximum is shown; null while no worker has a status
            publishes_policy: whether each worker publishes a policy that `flow.policies` lists
            describe: status -> text of the worker's row; None: its field `state`
        """
        self.struct = struct
        self.totals = totals or {}
        self.tables = tables or {}
        self.maxima = maxima or {}
        self.publishes_policy = publishes_policy
        self.describe = describe


class WorkerDeclaration:
    """What one package says about its worker; the defaults hold for undeclared workers."""

    __slots__ = ("fork_server", "refuses", "sections", "settings", "status")

    def __init__(
        self,
        *,
        sections: Iterable[str] | None = None,
        settings: str = "",
        fork_server: ForkServerGroup | None = None,
        refuses: Iterable[Refusal] = (),
        status: StatusSummary | None = None,
    ) -> None:
        """Declare a worker.

        Args:
            sections: sections of the settings that it reads, its own first; a reload that changes
                one of them restarts it; None: every section that is not the daemon's
            settings: `package.module:Class` of a pydantic model that checks
                `[workers.NAME.settings]`, for a package without a section in config/
            fork_server: what it is forked from unless the profile says otherwise; None: the daemon
            refuses: what production refuses while it is enabled
            status: how its status cell is summed up
        """
        self.sections = None if sections is None else tuple(sections)
        self.settings = settings
        self.fork_server = fork_server
        self.refuses = tuple(refuses)
        self.status = status


#: For workers that need nothing heavy: they share the daemon's imports, and numpy.
PLAIN = ForkServerGroup("plain", ("numpy",))

#: For every Kafka client: the embedded broker, and messages or schemas without encryption.
UNENCRYPTED_KAFKA = (
    Refusal(
        "kafka.bootstrap_servers",
        lambda value: value == "mesh",
        "`mesh` is the embedded broker",
        "name the real one",
    ),
    Refusal(
        "kafka.registry_url",
        lambda value: value == "mesh",
        "`mesh` is the embedded broker",
        "name the real one",
    ),
    Refusal(
        "kafka.registry_url",
        lambda value: value.startswith("http://"),
        "schemas would travel unencrypted",
        "use https",
    ),
    Refusal(
        "kafka.options.security.protocol",
        lambda value: str(value).lower() not in {"ssl", "sasl_ssl"},
        "messages would travel unencrypted (plaintext is the default of librdkafka)",
        "use SSL or SASL_SSL",
    ),
)


def declaration_of(class_path: str) -> WorkerDeclaration:
    """The declaration of a worker class.

    Args:
        class_path: `package.module:Class`, as in the key `worker` of a profile.

    Returns:
        The declaration of the innermost enclosing package that has one, else the defaults.
    """
    package = declaring_package(class_path)
    return _declared_by(package) if package else WorkerDeclaration()


def declaring_package(class_path: str) -> str:
    """Name of the innermost enclosing package with a declaration; empty without one."""
    package = class_path.partition(":")[0].rpartition(".")[0]
    while package and not _declares(package):
        package = package.rpartition(".")[0]
    return package


def kind_of(class_path: str) -> str:
    """Short name of a worker class: its declaring package (`ingest`), or else the class."""
    package = declaring_package(class_path)
    return package.rpartition(".")[2] if package else class_path.partition(":")[2]


def shipped() -> dict[str, WorkerDeclaration]:
    """The declarations of this project's own workers, by the name of their package."""
    return {
        name: _declared_by(f"workers.{name}")
        for directory in importlib.import_module("workers").__path__
        for name in sorted(os.listdir(directory))  # noqa: PTH208 - half the time of a Path
        if _declares_in(f"{directory}/{name}/__init__.py")
    }


def fork_server_groups(class_paths: Iterable[str] = ()) -> dict[str, ForkServerGroup]:
    """The fork servers that the shipped workers and those of `class_paths` declare, by name.

    Two packages may declare the same group: it imports what both need.
    """
    declared = [*shipped().values(), *map(declaration_of, class_paths)]
    groups: dict[str, ForkServerGroup] = {}
    for group in (each.fork_server for each in declared):
        if group is not None:
            known = groups.get(group.name, group)
            imports = dict.fromkeys((*known.imports, *group.imports))
            warm_up = known.warm_up or group.warm_up
            groups[group.name] = ForkServerGroup(group.name, imports, warm_up)
    return groups


def _declared_by(package: str) -> WorkerDeclaration:
    """Import a package and return its declaration.

    Raises:
        TypeError: its constant is not a `WorkerDeclaration`.
    """
    declared = getattr(importlib.import_module(package), NAME)
    if not isinstance(declared, WorkerDeclaration):
        raise TypeError(
            f"{package}.{NAME} must be a WorkerDeclaration: it is of type {type(declared).__name__}"
        )
    return declared


def _declares(package: str) -> bool:
    """Whether the `__init__.py` of a package assigns the constant; runs nothing of the package."""
    if package in sys.modules:
        return hasattr(sys.modules[package], NAME)
    # heavier than the rest of this module; the packages of the shipped workers are loaded already
    from importlib.machinery import PathFinder  # noqa: PLC0415 - as said
    from importlib.util import find_spec  # noqa: PLC0415 - as said

    top, *below = package.split(".")
    try:
        found = find_spec(top)
    except ValueError:  # a module that was not imported from anywhere
        return False
    for name in below:
        locations = list(found.submodule_search_locations or ()) if found is not None else []
        found = PathFinder.find_spec(f"{found.name}.{name}", locations) if found else None
    origin = found.origin if found is not None else None
    return bool(origin) and str(origin).endswith("__init__.py") and _declares_in(str(origin))


def _declares_in(file: str) -> bool:
    try:
        with open(file, "rb", buffering=0) as text:  # noqa: PTH123 - half the time of a Path
            return _LINE in b"\n" + text.read()
    except OSError:
        return False
