"""The style of this project, tested: layout, import direction, sizes, names, words.

Each rule is one test over every file of the project, so that a failure names all places at once.
"""

from __future__ import annotations

import ast
import re
import tokenize
from functools import cache
from pathlib import Path

import pytest

from config.declaration import shipped

ROOT = Path(__file__).parent.parent
SKIPPED = {".git", ".venv", ".run", "build", "dist", "results", "__pycache__"}
FUNCTION_LINES = 70
MODULE_LINES = 600
SUPERVISOR_LINES = 400
README_LINES = 200

#: What each room may import of ours; the longest matching name decides. A worker's package may
#: import itself and what lies below it, never another worker.
FOUNDATION = {"mesh", "config", "workers.contract"}
LIBRARIES = FOUNDATION | {"workers.market_data", "workers.trading_env"}
ALLOWED = {
    "mesh": {"mesh"},
    "config": {"config"},
    "workers.contract": {"workers.contract", "mesh"},
    "workers.runtime": {"workers.runtime"} | FOUNDATION,
    "workers.market_data": {"workers.market_data"} | FOUNDATION,
    "workers.trading_env": LIBRARIES,
    "workers.supervision": {"workers.supervision", "workers.runtime"} | FOUNDATION,
    "workers.ctl": {"workers.ctl"} | FOUNDATION,
    "supervisor": {"workers.supervision", "workers.runtime"} | FOUNDATION,
}
for each in shipped():
    ALLOWED[f"workers.{each}"] = {f"workers.{each}", "workers.runtime"} | LIBRARIES
#: Heavy libraries, and the only places that may load them.
CONFINED = {
    "torch": ("workers.trainer",),
    "stable_baselines3": (
        "workers.trainer",
        "workers.trading_env.env.sb3",  # imported by one call, TradingVectorEnv.as_sb3
        "workers.trading_env.env.vector",  # for its return type alone
    ),
    "mlflow": ("workers.shipper",),
    "confluent_kafka": ("workers.ingest", "workers.broker", "workers.replayer"),
    "pydantic": ("config",),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn"), ("workers.gateway",)),
    "psycopg": ("workers.recorder",),
    "sqlalchemy": ("workers.recorder", "workers.shipper.destination"),  # MLflow raises its errors
}
#: Where the environment is read besides config/, and why.
ENVIRONMENT_READERS = {
    "setup.py": "the compiler and the sanitizer of a build",
    "workers/runtime/systemd.py": "the notify socket that a service manager hands to its child",
    "workers/supervision/spawn.py": "writes the child's own environment; reads nothing",
    "workers/shipper/worker.py": "writes what MLflow reads of its timeouts",
    "workers/ctl/cli.py": "the mesh directory, from the variable that the daemon takes it from",
    "workers/ctl/commands/demo.py": "DEMO_SECONDS of `make demo`",
    "workers/ctl/render.py": "whether the terminal wants colours: NO_COLOR, TERM",
}
#: Entry points, pages that `make docs` makes, contracts between processes: no module uses them.
CONTRACTS = {
    "supervisor",
    "workers.supervision.state_machine_page",
    "workers.contract.statuses",
    "workers.contract.quote_schema",
    "workers.trainer.cli",
}
#: Where wall-clock seconds are taken: records and incidents carry them.
WALL_CLOCK = {
    "workers/supervision/daemon_parts.py": "incidents and status carry wall-clock stamps",
}
HYPE = re.compile(
    r"\b(blazing|robust(?! (mutex|futex|list))|seamless|enterprise|production-ready|comprehensive|"
    r"state[- ]of[- ]the[- ]art|cutting-edge|leverage|world-class|effortless|supercharge)\b",
    re.IGNORECASE,
)
VERB_CLASSES = re.compile(
    r"(Manager|Handler|Helper|Helpers|Engine|Orchestrator|Bus|Hub|Util|Utils)$"
)
#: Words that were given up for the field's own (docs/glossary.md): no part of a name and no prose.
RETIRED = {
    *("nursery", "nurseries", "bear", "birth", "births", "bury", "buried", "hearts", "newborn"),
    *("newborns", "spares", "fleet", "dice", "luck", "caution"),
    *("roomless", "fates"),
}
#: Words that prose may use and no name may contain.
RETIRED_IN_NAMES = {"foreign", "judgement", "predecessor"}
#: Names that may not be used, whatever underscores lie around them.
RETIRED_NAMES = {
    *("Tracked", "judge", "Poison", "Links", "told", "look", "LOOK_S", "most", "LEAST", "spare"),
    *("Spare", "whole_file", "take_hearts"),
}
#: What stays: a key of the configuration, a key of the JSON of `meshctl status`.
KEYS = ("nursery", "foreign")
KEY_IN_TEXT = re.compile(
    r"`[^`\n]*\b({0})\b[^`\n]*`|([\"'])({0})\2|\.({0})\b|\b({0}) *[=:]".format("|".join(KEYS))
)
#: Where "journal" is no longer the word; elsewhere it is the state of a ring's writer.
WITHOUT_JOURNAL = ("supervisor.py", "workers/supervision/", "tests/workers/supervision/")
JUNK_DRAWERS = {"util", "utils", "common", "helper", "helpers", "misc", "shm_manager"}
UNFINISHED = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b"
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root|home/\w+|opt/(pypi|wheels))(/|\b)")
EXEMPTION = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<rest>[^\n]*)")
EXEMPTION_WITH_REASON = re.compile(
    r"(:\s*[A-Z]+\d+(,\s*[A-Z]+\d+)*|\[[\w, -]+\])\s*[-#(:]*\s*\w.{5,}"
)
MEMORY_ORDERS = re.compile(
    r"\b(memory_order_\w+|__atomic_\w+|atomic_(load|store|fetch|exchange)\w*)"
)


@cache
def files(*suffixes):
    """Every file of the project with one of `suffixes`, sorted."""
    found = (path for path in ROOT.rglob("*") if path.suffix in suffixes and path.is_file())
    return sorted(p for p in found if not SKIPPED & set(p.relative_to(ROOT).parts))


def sources(*rooms):
    """Python files of `rooms` (all rooms when none is named)."""
    return [p for p in files(".py") if not rooms or p.relative_to(ROOT).parts[0] in rooms]


OURS = ("mesh", "workers", "config", "supervisor.py")


def name(path):
    """Path of a file as the project writes it."""
    return path.relative_to(ROOT).as_posix()


def module(path):
    """Dotted name of the module in `path`."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path):
    """Syntax tree of `path`."""
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path, *kinds):
    """Every node of `kinds` in `path`."""
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


def imports(path):
    """(dotted name, line) of everything that `path` imports, `from a import b` as a.b."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
            continue
        package = module(path) if path.name == "__init__.py" else module(path).rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        start = f"{package}.{node.module or ''}".strip(".") if node.level else node.module
        yield from ((f"{start}.{alias.name}", node.lineno) for alias in node.names)


def within(dotted, package):
    """Whether `dotted` is `package` or lies in it."""
    return dotted == package or dotted.startswith(package + ".")


def may_import(importer, imported):
    """Whether the module `importer` may import `imported`, one of ours."""
    rooms = [room for room in ALLOWED if within(importer, room)]
    return bool(rooms) and any(
        within(imported, allowed) for allowed in ALLOWED[max(rooms, key=len)]
    )


def test_imports_run_downwards():
    """mesh imports nothing of ours, no worker imports another worker's inside."""
    rooms = {"mesh", "workers", "config", "supervisor", "tests", "bench"}
    wrong = [
        f"{name(path)}:{line}: {imported}"
        for path in sources(*OURS)
        for imported, line in imports(path)
        if imported.split(".")[0] in rooms and not may_import(module(path), imported)
    ]
    assert not wrong


def runtime_imports(path):
    """Names that `path` imports when it runs, without those for type checkers alone."""
    hints = {
        each
        for node in nodes(path, ast.If)
        if ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body
        for each in ast.walk(child)
    }
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if node in hints:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_import_circle():
    """No module reaches itself through what it imports, lazily or not."""
    modules = {module(path): path for path in sources(*OURS)}
    arrows = {
        importer: {
            imported if imported in modules else imported.rpartition(".")[0]
            for imported in runtime_imports(path)
        }
        & modules.keys()
        for importer, path in modules.items()
    }
    open_ends = dict(arrows)
    while leaves := {m for m, imported in open_ends.items() if not imported & open_ends.keys()}:
        open_ends = {m: imported for m, imported in open_ends.items() if m not in leaves}
    assert not open_ends


def test_heavy_libraries_stay_in_their_rooms():
    """torch belongs to the trainer, Kafka to those who speak it, pydantic to the settings."""
    wrong = [
        f"{name(path)}:{line}: {imported}"
        for path in sources(*OURS)
        for imported, line in imports(path)
        for library, homes in CONFINED.items()
        if within(imported, library) and not any(within(module(path), home) for home in homes)
    ]
    assert not wrong


def test_functions_fit_on_a_page():
    """No function is longer than a person reads at once."""
    wrong = [
        f"{name(path)}:{node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sources()
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not wrong


def test_modules_are_small():
    """A file is one concept; the supervisor is one a person can read through."""
    limits = {"supervisor.py": SUPERVISOR_LINES}
    wrong = [
        f"{name(path)}: {lines} lines"
        for path in files(".py", ".c", ".h")
        if (lines := path.read_text().count("\n")) > limits.get(name(path), MODULE_LINES)
    ]
    assert not wrong


def test_files_have_a_name_for_what_they_hold():
    """No junk drawers."""
    assert not [name(path) for path in files(".py") if path.stem in JUNK_DRAWERS]


def test_classes_are_named_for_things():
    """A class is a thing of this field, not a manager of others."""
    wrong = [
        f"{name(path)}:{node.lineno}: {node.name}"
        for path in sources()
        for node in nodes(path, ast.ClassDef)
        if VERB_CLASSES.search(node.name)
    ]
    assert not wrong


def text_findings(pattern, *suffixes, but=()):
    """file:line: text of every match of `pattern`."""
    return [
        f"{name(path)}:{number}: {match.group(0)}"
        for path in files(*suffixes)
        if path != Path(__file__) and name(path) not in but
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (match := pattern.search(line))
    ]


TEXT = (".py", ".pyi", ".c", ".h", ".md", ".toml", ".service", ".sh")


def test_prose_is_plain():
    """No advertising."""
    assert not text_findings(HYPE, *TEXT)


WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
RETIRED_IN_PROSE = re.compile(rf"\b({'|'.join(sorted(RETIRED))})\b", re.IGNORECASE)


def is_retired(path, token):
    """Whether the NAME token of `path` is, or contains, a word that was given up."""
    text, bare = token.string, token.string.strip("_")
    if text in KEYS:  # as a field: an attribute, an argument or an annotated name
        before, after = token.line[: token.start[1]].rstrip(), token.line[token.end[1] :].lstrip()
        return not (before.endswith(".") or after.startswith(("=", ":")))
    if text == "_tell" or bare in RETIRED_NAMES or bare.endswith("LOOK_S"):
        return True
    words = {word.lower() for word in WORDS.findall(text)}
    if "journal" in words and name(path).startswith(WITHOUT_JOURNAL):
        return True
    return bool(words & (RETIRED | RETIRED_IN_NAMES))


def retired_names(path):
    """file:line: name of every retired name in a Python file."""
    with path.open("rb") as source:
        return [
            f"{name(path)}:{token.start[0]}: {token.string}"
            for token in tokenize.tokenize(source.readline)
            if token.type == tokenize.NAME and is_retired(path, token)
        ]


def retired_prose(path):
    """file:line: word of every retired word in the text of a file, names in Python aside."""
    return [
        f"{name(path)}:{number}: {match[0]}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in RETIRED_IN_PROSE.finditer(KEY_IN_TEXT.sub("", line))
    ]


def test_retired_words_stay_away():
    """One term for one concept: words that were replaced do not come back."""
    old_names = ("changelog.d", "CHANGELOG.md")  # where users read what was renamed
    wrong = [
        found
        for path in files(*TEXT)
        if path != Path(__file__) and not name(path).startswith(old_names)
        for found in retired_prose(path)
        + (retired_names(path) if path.suffix in {".py", ".pyi"} else [])
    ]
    assert not wrong


def documented(path):
    """(line, name, docstring, node) of everything in `path` that has a docstring."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
    for node in nodes(path, *kinds):
        if text := ast.get_docstring(node):
            yield getattr(node, "lineno", 1), getattr(node, "name", "the module"), text, node


def test_docstrings_say_what_is_returned():
    """A docstring says "Return ..." or what the thing is."""
    wrong = [
        f"{name(path)}:{line}: {what}: {text.splitlines()[0]}"
        for path in files(".py", ".pyi")
        for line, what, text, _ in documented(path)
        if re.match(r"Gives?\b", text)
    ]
    assert not wrong


def raised_by(function):
    """Names of the error classes that `function` raises in its own body."""
    inside = list(function.body)
    while inside:
        node = inside.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            last = ast.unparse(error).rpartition(".")[2]
            if last[:1].isupper() and last != "AssertionError":  # a variable; a broken invariant
                yield last
        inside.extend(ast.iter_child_nodes(node))


def test_raises_sections_are_complete():
    """A `Raises:` section lists every error that the function raises itself."""
    section = re.compile(r"^Raises:\n((?: +.*\n|\n)*)", re.MULTILINE)
    wrong = [
        f"{name(path)}:{line}: {what} raises {error}"
        for path in sources()
        for line, what, text, node in documented(path)
        if (match := section.search(text + "\n"))
        and not isinstance(node, (ast.ClassDef, ast.Module))
        for error in sorted(set(raised_by(node)))
        if not re.search(rf"\b{error}\b", match[1])
    ]
    assert not wrong


def test_nothing_is_left_unfinished():
    """No reminders in the code: they belong into an issue."""
    assert not text_findings(UNFINISHED, *TEXT)


def test_no_pictographs():
    """Plain text everywhere."""
    assert not text_findings(re.compile("[\U0001f300-\U0001faff\u2705\u274c\u2728]"), *TEXT)


def test_no_path_of_one_machine():
    """The project works wherever it is cloned."""
    assert not text_findings(MACHINE_PATHS, *TEXT)


def test_every_exemption_has_code_and_reason():
    """A `noqa` or `type: ignore` says which rule it breaks and why."""
    wrong = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in files(".py", ".pyi")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if (match := EXEMPTION.search(line)) and not EXEMPTION_WITH_REASON.search(match["rest"])
    ]
    assert not wrong


def test_every_lint_rule_left_out_has_a_reason():
    """The ignore lists of pyproject.toml explain themselves, line by line."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    wrong = [line for line in lines if re.match(r'\s+"[A-Z]+\d*",?\s*$', line)]
    assert not wrong


def test_memory_orders_live_in_one_file():
    """Whoever reviews the protocol reads one header."""
    wrong = text_findings(MEMORY_ORDERS, ".c", ".h", but=("mesh/_core/atomics.h",))
    # examples are for programs that have layout.h alone
    assert not [f for f in wrong if not f.startswith(("tests/", "docs/examples/"))]


def called(path):
    """(dotted text, line) of every call in `path`."""
    return [(ast.unparse(node.func), node.lineno) for node in nodes(path, ast.Call)]


def test_intervals_are_monotonic():
    """The wall clock jumps: it stamps records (time_ns) and measures nothing."""
    wrong = [
        f"{name(path)}:{line}"
        for path in sources(*OURS)
        for function, line in called(path)
        if function == "time.time" and name(path) not in WALL_CLOCK
    ]
    assert not wrong


def test_environment_is_read_by_config_alone():
    """Settings have one way in; everything else is given its values."""
    wrong = [
        f"{name(path)}:{node.lineno}"
        for path in sources("mesh", "workers", "supervisor.py")
        for node in nodes(path, ast.Attribute)
        if ast.unparse(node) in {"os.environ", "os.getenv"}
        and name(path) not in ENVIRONMENT_READERS
    ]
    assert not wrong


def test_tests_wait_on_conditions():
    """No test sleeps: it waits for what it wants to see, with a watchdog."""
    wrong = [
        f"{name(path)}:{line}"
        for path in sources("tests")
        for function, line in called(path)
        if function.rpartition(".")[2] == "sleep"
    ]
    assert not wrong


def test_tests_use_the_real_thing():
    """No mocks, and no patching of our own modules."""
    mocks = [
        f"{name(path)}:{line}"
        for path in sources("tests")
        for imported, line in imports(path)
        if "mock" in imported.split(".")
    ]
    patches = [
        f"{name(path)}:{line}"
        for path in sources("tests")
        for function, line in called(path)
        if function == "monkeypatch.setattr"
    ]
    assert not mocks + patches


def test_every_test_says_what_it_shows():
    """A docstring for each test: the behaviour, in words."""
    wrong = [
        f"{name(path)}:{node.lineno}: {node.name}"
        for path in sources("tests")
        for node in nodes(path, ast.FunctionDef)
        if node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert not wrong


def test_names_import_nothing():
    """A command that only needs a segment's name pays for no import."""
    assert not list(imports(ROOT / "workers/contract/names.py"))


def test_every_worker_declares_itself():
    """A package with a worker in it says so in its `__init__.py`."""
    packages = {path.parent.name for path in (ROOT / "workers").glob("*/worker.py")}
    assert packages - {"runtime"} == set(shipped())


def test_every_mesh_module_has_its_tests():
    """tests/mesh mirrors mesh."""
    modules = [path for path in sources("mesh") if path.parent == ROOT / "mesh"]
    wrong = [
        name(path)
        for path in modules
        if path.stem != "arrays"  # a type alias
        and not path.stem.startswith("_")
        and not (ROOT / f"tests/mesh/test_{path.stem}.py").exists()
    ]
    assert not wrong


def test_no_module_is_dead():
    """Every module is used by another one, a profile or a command table."""
    users = [p for p in files(".py", ".toml") if p.relative_to(ROOT).parts[0] != "tests"]
    texts = {path: path.read_text() for path in [*users, ROOT / "Makefile"]}
    wrong = []
    for path in sources(*OURS):
        dotted = module(path)
        package, _, last = dotted.rpartition(".")
        if path.stem in {"__init__", "__main__"} or dotted in CONTRACTS:
            continue
        used = re.compile(
            rf"\b{re.escape(dotted)}\b|from {re.escape(package)} import [^#]*?\b{last}\b"
            rf"|from \.+ import [^#]*?\b{last}\b|\.{last} import",
            re.DOTALL,
        )
        if not any(used.search(text) for other, text in texts.items() if other != path):
            wrong.append(dotted)
    assert not wrong


def test_readme_is_short():
    """A newcomer reads it to the end."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


NAMED_PATH = re.compile(
    r"(?<![\w./-])((?:tests|docs|bench|mesh|workers|config|systemd)/[\w./-]*[\w/])"
)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def test_documents_name_what_is_there():
    """A path in backquotes and a link in a page lead to a file or folder of this tree."""
    wrong = []
    for path in files(".md"):
        text = path.read_text(encoding="utf-8")
        named = [
            (ROOT, p) for code in re.findall(r"`([^`\n]+)`", text) for p in NAMED_PATH.findall(code)
        ]
        named += [(path.parent, link) for link in LINK.findall(text)]
        wrong += [f"{name(path)}: {p}" for base, p in named if not (base / p).exists()]
    assert not wrong


def test_makefile_lists_itself():
    """`make` alone shows every target, and there are few of them."""
    text = (ROOT / "Makefile").read_text()
    listed = set(re.findall(r"^([a-z][a-z%-]*):.*#- ", text, re.MULTILINE))
    declared = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    assert declared - listed <= {"help", "uninstall"}
    assert len(listed) <= 12


@pytest.mark.parametrize("room", ["mesh", "config", "workers", "tests", "bench", "docs", "systemd"])
def test_the_rooms_are_there(room):
    """The top level reads like the design."""
    assert (ROOT / room).is_dir()
