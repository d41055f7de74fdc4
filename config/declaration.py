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
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

NAME = "WORKER"
_ASSIGNMENT = re.compile(rb"^WORKER\b", re.MULTILINE)
_NOTHING: Mapping[str, str] = MappingProxyType({})


class ForkServerGroup(NamedTuple):
    """A fork server: one warm process that has imported what its workers need."""

    name: str
    #: modules that it imports
    imports: tuple[str, ...]
    #: `package.module:function` without arguments, called once after the imports
    warm_up: str = ""


class Refusal(NamedTuple):
    """A setting that production refuses while a worker of this package is enabled."""

    #: dotted key; inside a free table the rest is one key; `workers`: the worker itself
    key: str
    #: whether a value of the key is refused; None where a free table lacks the key
    refuses: Callable[[Any], bool]
    reason: str
    remedy: str


class StatusSummary(NamedTuple):
    """How `meshctl status` sums up the status cells of one type."""

    #: name of the status Struct
    struct: str
    #: key of `flow` -> integer field that is added up over the workers
    totals: Mapping[str, str] = _NOTHING
    #: key of `flow` -> field with a table of integers, added up key by key
    tables: Mapping[str, str] = _NOTHING
    #: key of `flow` -> field whose maximum over the workers is shown; null without a worker
    maxima: Mapping[str, str] = _NOTHING
    #: whether each worker publishes a policy that `flow.policies` lists
    publishes_policy: bool = False
    #: status -> text of the worker's row; None: its field `state`
    describe: Callable[[Mapping[str, Any]], str] | None = None


class WorkerDeclaration(NamedTuple):
    """What one package says about its worker; the defaults hold for undeclared workers."""

    #: sections of the settings that it reads, its own first: a reload that changes one of them
    #: restarts the worker; None: every section that is not the daemon's
    sections: tuple[str, ...] | None = None
    #: `package.module:Class` of a pydantic model that checks `[workers.NAME.settings]`, for a
    #: package whose settings have no section in config/
    settings: str = ""
    #: fork server it is forked from unless the profile names another; None: the daemon itself
    fork_server: ForkServerGroup | None = None
    #: what production refuses while this worker is enabled
    refuses: tuple[Refusal, ...] = ()
    #: how its status is summed up
    status: StatusSummary | None = None


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

    Raises:
        TypeError: the constant of that package is not a `WorkerDeclaration`.
    """
    package = declaring_package(class_path)
    if not package:
        return WorkerDeclaration()
    declared = getattr(importlib.import_module(package), NAME)
    if not isinstance(declared, WorkerDeclaration):
        raise TypeError(f"{package}.{NAME} is a {type(declared).__name__}, not a WorkerDeclaration")
    return declared


def declaring_package(class_path: str) -> str:
    """Name of the innermost enclosing package with a declaration; empty: there is none."""
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
    found = {}
    for directory in sorted(_locations(find_spec("workers"))):
        for entry in sorted(Path(directory).iterdir()):
            package = f"workers.{entry.name}"
            if entry.name.isidentifier() and _declares_in(entry / "__init__.py"):
                found[entry.name] = declaration_of(f"{package}.worker:Worker")
    return found


def fork_server_groups(class_paths: Iterable[str] = ()) -> dict[str, ForkServerGroup]:
    """The fork servers that the shipped workers and those of `class_paths` declare, by name.

    Two packages may declare the same group: it imports what both need.
    """
    declared = [*shipped().values(), *map(declaration_of, class_paths)]
    groups: dict[str, ForkServerGroup] = {}
    for group in (each.fork_server for each in declared):
        if group is None:
            continue
        known = groups.get(group.name, group)
        imports = tuple(dict.fromkeys((*known.imports, *group.imports)))
        groups[group.name] = ForkServerGroup(group.name, imports, known.warm_up or group.warm_up)
    return groups


def _declares(package: str) -> bool:
    """Whether the `__init__.py` of a package assigns the constant; runs nothing of the package."""
    top, *below = package.split(".")
    try:
        found = find_spec(top)
    except ValueError:  # a module that was not imported from anywhere
        return False
    for name in below:
        locations = _locations(found)
        found = PathFinder.find_spec(f"{found.name}.{name}", locations) if found else None
    origin = Path(found.origin) if found is not None and found.origin else None
    return origin is not None and origin.name == "__init__.py" and _declares_in(origin)


def _locations(found: ModuleSpec | None) -> list[str]:
    """The directories of a package; empty for a module or for nothing."""
    return list(found.submodule_search_locations or ()) if found is not None else []


def _declares_in(file: Path) -> bool:
    try:
        return _ASSIGNMENT.search(file.read_bytes()) is not None
    except OSError:
        return False
