"""Where settings come from: TOML profile, .env, environment, systemd credentials, --set.

Each source becomes assignments (path, value, origin); later ones win, key by key. Everything is
read before anything is checked, and each value keeps its origin, so that one report can name
them all. pydantic-settings offers the same sources, but stops at the first malformed one, forgets
where a value came from and reads the environment at every construction of a model, also in a
forked worker that only wants a copy with another seed.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from config.problems import MASK, Problem, is_secret, nearest, shown

PREFIX = "MESH__"
PROFILES = Path(__file__).parent
WORKERS = "workers"

#: One key path; a name with a dot in it (librdkafka's) is one part.
KeyPath = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One value for one key, and where it was found."""

    path: KeyPath
    value: Any
    origin: str


class Gathered:
    """The assignments of all sources merged into one tree, with the origin of every value."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[Problem] = []

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Lay `assignments` over what is there."""
        for assignment in assignments:
            node = self.tree
            for part in assignment.path[:-1]:
                below = node.get(part)
                if not isinstance(below, dict):
                    below = node[part] = {}
                node = below
            node[assignment.path[-1]] = assignment.value
            self.origins[assignment.path] = assignment.origin

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path` (or the table it lies in) came from; empty for defaults."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""


def profile_file(profile: str | Path) -> Path:
    """The TOML file of `profile`: a shipped name (demo, development, production) or a path."""
    text = str(profile)
    shipped = PROFILES / f"{text}.toml"
    if re.fullmatch(r"[a-z]+", text) and shipped.is_file():
        return shipped
    return Path(profile)


def from_toml(path: Path, problems: list[Problem]) -> list[Assignment]:
    """Read a TOML profile; what cannot be read is a problem, and then there is nothing."""
    names = ", ".join(sorted(file.stem for file in PROFILES.glob("*.toml")))
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = f"give the path of a TOML file or one of the shipped profiles: {names}"
        problems.append(Problem("profile", str(path), "no such file", remedy))
        return []
    except OSError as error:
        remedy = "make it readable for this user"
        problems.append(Problem("profile", str(path), error.strerror or str(error), remedy))
        return []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(Problem("profile", str(path), f"not TOML: {error}", "correct that line"))
        return []
    listed = tree.get(WORKERS)
    if isinstance(listed, list):
        tree[WORKERS] = _by_name(listed, path, problems)
    return [Assignment(keys, value, str(path)) for keys, value in _leaves(tree)]


def _by_name(listed: list[Any], path: Path, problems: list[Problem]) -> dict[str, Any]:
    """The array form [[workers]] as the table form [workers.NAME]."""
    named: dict[str, Any] = {}
    for position, item in enumerate(listed):
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or name in named:
            reason = "a worker without a name" if name is None else "not a name, or there twice"
            key = f"{WORKERS}.{position}.name"
            problems.append(Problem(key, shown(key, name), reason, "name it once", str(path)))
            continue
        named[name] = {key: value for key, value in item.items() if key != "name"}
    return named


def _leaves(tree: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of a nested table with its path; an empty table counts as a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def from_dotenv(path: Path, problems: list[Problem]) -> dict[str, str]:
    """Variables of a .env file: NAME=value lines, comments, optional `export` and quotes."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(
            Problem(".env", str(path), str(error), "make it readable text or remove it")
        )
        return {}
    variables = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.replace("-", "_").isidentifier():
            held = MASK if is_secret(line) else line
            reason = f"line {number} is not NAME=value"
            problems.append(Problem(".env", f'"{held}"', reason, "correct it", str(path)))
            continue
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        variables[name] = value[1:-1] if quoted else value.split(" #")[0].rstrip()
    return variables


def from_variables(
    variables: Mapping[str, str],
    model: type[BaseModel],
    where: str,
    problems: list[Problem],
    workers: Sequence[str] = (),
) -> list[Assignment]:
    """MESH__SECTION__KEY variables, and ENVIRONMENT, out of all `variables` there are.

    A shell cannot export a dash: TD3_0 names the worker td3-0 of `workers`.
    """
    exportable = {name.lower().replace("-", "_"): name for name in workers}
    found: list[Assignment | None] = []
    for name, text in variables.items():
        if name == "ENVIRONMENT":
            found.append(Assignment(("environment",), text, f"{where} {name}"))
        elif name.upper().startswith(PREFIX):
            parts = [part.lower() for part in name[len(PREFIX) :].split("__")]
            if parts[0] == WORKERS and len(parts) > 1:
                parts[1] = exportable.get(parts[1].replace("-", "_"), parts[1])
            found.append(_assignment(parts, text, model, f"{where} {name}", problems))
    return [assignment for assignment in found if assignment is not None]


def from_credentials(
    directory: str, model: type[BaseModel], problems: list[Problem]
) -> list[Assignment]:
    """Credentials of systemd: files named `section.key`; files of other names are not settings."""
    found = []
    try:
        files = sorted(Path(directory).iterdir()) if directory else []
        for file in files:
            parts = file.name.split(".")
            if len(parts) > 1 and parts[0] in model.model_fields:
                text = file.read_text(encoding="utf-8").removesuffix("\n")
                found.append(_assignment(parts, text, model, f"credential {file.name}", problems))
    except (OSError, UnicodeDecodeError) as error:
        remedy = "check LoadCredential= of the unit"
        problems.append(Problem("credentials", directory, str(error), remedy))
    return [assignment for assignment in found if assignment is not None]


def from_overrides(
    overrides: Sequence[str], model: type[BaseModel], problems: list[Problem]
) -> list[Assignment]:
    """`section.key=value` as given to --set."""
    found = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            held = MASK if is_secret(override) else override
            remedy = "write --set section.key=value"
            problems.append(Problem("--set", f'"{held}"', "not section.key=value", remedy))
            continue
        parts = key.strip().split(".")
        found.append(_assignment(parts, text, model, f"--set {key.strip()}", problems))
    return [assignment for assignment in found if assignment is not None]


def _assignment(
    parts: Sequence[str], text: str, model: type[BaseModel], origin: str, problems: list[Problem]
) -> Assignment | None:
    """Turn the text given for `parts` into a value of the kind that the key holds."""
    path, annotation = _walk(tuple(parts), model)
    key = ".".join(path)
    if text.startswith(("[", "{")) and not _holds_text(annotation):
        try:
            return Assignment(path, json.loads(text), origin)
        except json.JSONDecodeError as error:
            reason = f"not JSON: {error}"
            problems.append(Problem(key, shown(key, text), reason, "correct the JSON", origin))
            return None
    if text == "" and type(None) in typing.get_args(annotation):
        return Assignment(path, None, origin)
    if _is_sequence(annotation):
        return Assignment(path, [item.strip() for item in text.split(",") if item.strip()], origin)
    return Assignment(path, text, origin)


def _walk(parts: KeyPath, model: type[BaseModel]) -> tuple[KeyPath, Any]:
    """Follow `parts` through the models: the path in the tree and the kind of its value.

    In a free table (no model) all remaining parts are one key, joined by dots.
    """
    annotation: Any = model
    path: list[str] = []
    rest = list(parts)
    while rest:
        below = model_of(annotation)
        if below is None:
            return (*path, ".".join(rest)), None
        part = rest.pop(0)
        path.append(part)
        field = below.model_fields.get(part)
        if field is None:
            return (*path, *rest), None
        annotation = field.annotation
        if path == [WORKERS] and rest:
            path.append(rest.pop(0))
    return tuple(path), annotation


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, also an optional one."""
    members = _members(annotation)
    if typing.get_origin(annotation) is tuple:
        members = typing.get_args(annotation)
    for candidate in (annotation, *members):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union; nothing for other annotations."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return ()


def _is_sequence(annotation: Any) -> bool:
    """Whether a field holds a list of values."""
    kinds = (tuple, list, frozenset, set)
    alternatives = _members(annotation) or (annotation,)
    return any(typing.get_origin(each) in kinds for each in alternatives)


def _holds_text(annotation: Any) -> bool:
    """Whether a field holds nothing but text."""
    return annotation is str


def unknown_workers(gathered: Gathered, declared: Sequence[str]) -> list[Problem]:
    """Workers that only an override speaks of: a misspelt name, so taken out of the tree."""
    tree = gathered.tree.get(WORKERS)
    if not isinstance(tree, dict):
        return []
    found = []
    for name in [name for name in tree if name not in declared]:
        key = f"{WORKERS}.{name}"
        origin = next(o for path, o in gathered.origins.items() if path[:2] == (WORKERS, name))
        found.append(Problem(key, "", "no such worker", nearest(name, list(declared)), origin))
        del tree[name]
    return found
