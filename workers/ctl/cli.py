"""`meshctl [--mesh DIR] COMMAND`: the table of commands, the parser made from it, the exit codes.

A command's module is imported when it is asked for, so that each starts with the least there is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mesh.errors import MeshError
from workers.contract.names import SUPERVISOR
from workers.ctl.failure import CommandFailed, Exit

TMPFS = Path("/dev/shm")  # noqa: S108 - where meshes lie
DEFAULT = TMPFS / "tradingmesh"
MESH_VARIABLE = "MESH__MESH__PATH"  # the daemon takes its mesh from it too


class Argument(NamedTuple):
    """One argument of a command: argparse's words, and what completes it."""

    flags: tuple[str, ...]
    help: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never written to
    completes: str = ""  # workers, segments, rings, locks, files


class Command(NamedTuple):
    """One command: where its function is, and what it takes."""

    name: str
    help: str
    where: str  # package.module:function
    arguments: tuple[Argument, ...] = ()
    example: str = ""
    mesh: Path | None = None  # the mesh it means when none is named; None: one that is there
    needs_mesh: bool = True  # False: its function takes the options alone


FORMAT = Argument(
    ("--format",), "table for people, json for programs", {"choices": ("table", "json")}
)
RECORDS = ("-n", "--records")
TARGET = Argument(("target",), "name of a worker or of a group", {"metavar": "WORKER"}, "workers")
WAIT = Argument(
    ("--wait",),
    "wait until it has happened, at most so long",
    {"type": float, "metavar": "SECONDS"},
)
CONTROL = "workers.ctl.commands.control:control"
SET = Argument(
    ("--set",),
    "a setting of the daemon, as meshd takes it",
    {"action": "append", "default": [], "metavar": "KEY=VALUE"},
)


def count(default: int, help_: str) -> Argument:
    """Return the argument that says how many; the default is told in its help."""
    return Argument(
        RECORDS, f"{help_} ({default})", {"type": int, "default": default, "metavar": "N"}
    )


def follow(help_: str) -> Argument:
    """Return the argument that goes on printing what comes."""
    return Argument(("-f", "--follow"), help_, {"action": "store_true"})


COMMANDS: tuple[Command, ...] = (
    Command(
        "status",
        "state of the daemon, the workers and the flow of data",
        "workers.ctl.commands.status:status",
        (
            Argument(
                ("worker",), "one worker, in full", {"nargs": "?", "metavar": "WORKER"}, "workers"
            ),
            FORMAT,
            Argument(
                ("--wait-ready",),
                "wait until everything required runs, at most so long",
                {"type": float, "metavar": "SECONDS"},
            ),
        ),
        "exit code: 0 healthy, 1 degraded, 2 down",
    ),
    Command(
        "top",
        "the same, live; keys: q quit, s sort, r restart, l log",
        "workers.ctl.commands.top:top",
        (
            Argument(
                ("--interval",),
                "seconds between updates (1)",
                {"type": float, "default": 1.0, "metavar": "SECONDS"},
            ),
        ),
    ),
    Command(
        "segments",
        "every segment: kind, size, writer",
        "workers.ctl.commands.segments:segments",
        (FORMAT,),
    ),
    Command(
        "show",
        "content of a segment, decoded by the schema it carries",
        "workers.ctl.commands.show:show",
        (
            Argument(("segment",), "name of a segment", {"metavar": "SEGMENT"}, "segments"),
            count(10, "records of a ring, rows of a table"),
            Argument(("--key",), "one row of a table", {"metavar": "KEY"}),
            Argument(("--schema",), "the schema instead of the content", {"action": "store_true"}),
            FORMAT,
        ),
    ),
    Command(
        "tail",
        "records of a ring as they are published",
        "workers.ctl.commands.tail:tail",
        (
            Argument(("ring",), "name of a ring", {"metavar": "RING"}, "rings"),
            count(10, "records to begin with"),
            Argument(("--fields",), "only these, separated by commas", {"metavar": "NAMES"}),
            Argument(("--no-follow",), "end after what is there", {"action": "store_true"}),
            FORMAT,
        ),
    ),
    Command(
        "locks",
        "locks with their owners, and the leases of writers",
        "workers.ctl.commands.locks:locks",
        (FORMAT,),
    ),
    Command(
        "events",
        "what happened: starts, deaths, restarts, adoptions",
        "workers.ctl.commands.events:events",
        (
            Argument(("worker",), "of one worker", {"nargs": "?", "metavar": "WORKER"}, "workers"),
            count(20, "newest events"),
            follow("and each new one"),
            Argument(
                ("--incidents",),
                "failures in full: evidence, times, what was freed",
                {"action": "store_true"},
            ),
            FORMAT,
        ),
    ),
    Command(
        "logs",
        "the end of a worker's log",
        "workers.ctl.commands.logs:logs",
        (
            Argument(("worker",), "name of a worker", {"metavar": "WORKER"}, "workers"),
            count(50, "lines"),
            follow("and what comes, through rotations"),
            FORMAT,
        ),
    ),
    Command(
        "doctor",
        "what on this host is not as it should be, and what to do",
        "workers.ctl.commands.doctor:doctor",
        (FORMAT,),
        "exit code: 1 if anything is bad",
    ),
    Command("start", "let a stopped worker run", CONTROL, (TARGET, WAIT)),
    Command("stop", "stop a worker in order, until it is started", CONTROL, (TARGET, WAIT)),
    Command("restart", "restart a worker; a group one after the other", CONTROL, (TARGET, WAIT)),
    Command("reset", "let a quarantined worker try again", CONTROL, (TARGET, WAIT)),
    Command(
        "break-lock",
        "free a lock whose owner is dead",
        CONTROL,
        (Argument(("target",), "name of a lock", {"metavar": "LOCK"}, "locks"),),
    ),
    Command(
        "unlink",
        "remove a segment that nobody uses, to have it made anew (with other sizes)",
        "workers.ctl.commands.unlink:unlink",
        (
            Argument(("segment",), "name of a segment", {"metavar": "SEGMENT"}, "segments"),
            Argument(("-y", "--yes"), "do not ask", {"action": "store_true"}),
        ),
        "refused while a process writes it, holds it or beats in it",
    ),
    Command("reload", "read the configuration again; what did not change runs on", CONTROL),
    Command("upgrade", "replace the daemon's program; every worker runs on", CONTROL),
    Command("shutdown", "stop the daemon and all workers in order", CONTROL),
    Command(
        "config",
        "check a configuration: every problem, or what would be started",
        "workers.ctl.commands.config:config",
        (
            Argument(("action",), "what to do", {"choices": ("check",)}),
            Argument(("--profile",), "shipped name or TOML file", {"metavar": "NAME"}, "files"),
            SET,
        ),
        "exit code: 78 if there is a problem",
        needs_mesh=False,
    ),
    Command(
        "evaluate",
        "the newest policy of a trainer beside the baselines: JSON, and a picture",
        "workers.ctl.commands.evaluate:evaluate",
        (
            Argument(
                ("trainer",),
                "whose policy (td3-0)",
                {"nargs": "?", "default": "td3-0", "metavar": "TRAINER"},
                "workers",
            ),
            Argument(
                ("--data",),
                "recorded data; else a synthetic market",
                {"type": Path, "metavar": "PATH"},
                "files",
            ),
            Argument(
                ("--episodes",), "how many (16)", {"type": int, "default": 16, "metavar": "N"}
            ),
            Argument(
                ("--out",),
                "folder for report.json and report.png",
                {"type": Path, "metavar": "DIR"},
                "files",
            ),
        ),
    ),
    Command(
        "record",
        "write the market states as Parquet, until interrupted",
        "workers.ctl.commands.evaluate:record",
        (
            Argument(
                ("--out",),
                "the file to write",
                {"type": Path, "required": True, "metavar": "FILE"},
                "files",
            ),
            Argument(
                ("--states",), "stop after so many", {"type": int, "default": 0, "metavar": "N"}
            ),
            Argument(
                ("--seconds",),
                "stop after so long",
                {"type": float, "default": 0.0, "metavar": "SECONDS"},
            ),
        ),
    ),
    Command(
        "completion",
        "completion script for a shell",
        "workers.ctl.commands.completion:completion",
        (Argument(("shell",), "which", {"choices": ("bash", "zsh", "fish")}),),
        needs_mesh=False,
    ),
    Command(
        "words",
        "",
        "workers.ctl.commands.words:words",
        (Argument(("kind",), "", {"choices": ("workers", "segments", "rings", "locks")}),),
    ),
    Command(
        "demo",
        "run the whole loop here on an embedded broker, then top; q stops everything",
        "workers.ctl.commands.demo:demo",
        (
            Argument(
                ("--data",),
                "Lean option minute zip or a folder of such; else synthetic",
                {"type": Path, "metavar": "PATH"},
                "files",
            ),
            Argument(
                ("--run-directory",),
                "where logs and tracking go, and stay; else a temporary one",
                {"type": Path, "metavar": "DIR"},
                "files",
            ),
            SET,
        ),
        "without a terminal: status lines, ends after DEMO_SECONDS (60)",
        TMPFS / "tradingmesh-demo",
    ),
)


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of sysexits.h for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to learn more."""
        sys.stderr.write(f"{self.prog}: {message}; try `{self.prog} --help`\n")
        sys.exit(Exit.USAGE)


def parser(words: Sequence[str] = ()) -> Parser:
    """Make the parser from the table: of the commands among `words`, of all where none is one.

    The rest would be made in vain, which takes longer than most commands.
    """
    meant = _command_word(words)
    named = [command for command in COMMANDS if command.name == meant]
    mesh = Parser(add_help=False)
    mesh.add_argument(
        "--mesh",
        type=Path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help=f"directory of the mesh (${MESH_VARIABLE}, {DEFAULT}, or the only one there is)",
    )
    top = Parser(
        prog="meshctl",
        description="Looks after a tradingmesh: reads shared memory, works with the daemon dead.",
        parents=[mesh],
    )
    below = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in named or COMMANDS:
        listed: dict[str, Any] = (
            {"help": command.help} if command.help else {}
        )  # without help it is not listed
        each = below.add_parser(
            command.name,
            description=command.help,
            epilog=command.example,
            parents=[mesh],
            **listed,
        )
        for argument in command.arguments:
            each.add_argument(*argument.flags, help=argument.help, **argument.options)
    return top


def _command_word(words: Sequence[str]) -> str:
    """Return the first word that is no option and no option's value; empty where help is asked."""
    rest = iter(words)
    for word in rest:
        if word == "--mesh":
            next(rest, None)
        elif not word.startswith("-"):
            return word
        elif word in {"-h", "--help"}:
            return ""
    return ""


def find_mesh(given: Path | None, default: Path | None = None) -> Path:
    """Return the mesh directory that is meant. Raises CommandFailed where several could be."""
    if given is not None:
        return given
    if named := os.environ.get(MESH_VARIABLE):
        return Path(named)
    if default is not None:
        return default
    if (DEFAULT / SUPERVISOR).exists():
        return DEFAULT
    found = [path.parent for path in sorted(TMPFS.glob(f"{DEFAULT.name}*/{SUPERVISOR}"))]
    if len(found) > 1:
        several = ", ".join(map(str, found))
        raise CommandFailed(f"several meshes are there: {several}; name one: --mesh DIR", 64)
    return found[0] if found else DEFAULT


def run(options: argparse.Namespace) -> int:
    """Carry out the command of parsed arguments and give its exit code."""
    command = next(each for each in COMMANDS if each.name == options.command)
    module, _, function = command.where.partition(":")
    perform = getattr(importlib.import_module(module), function)
    if not command.needs_mesh:
        return int(perform(options))
    path = find_mesh(getattr(options, "mesh", None), command.mesh)
    # nothing here multiplies matrices: threads for that would be started in vain
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from mesh import Mesh  # noqa: PLC0415 - the core, which not every command needs

    return int(perform(Mesh(path), options))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshctl` and give its exit code; every error is one line."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(words).parse_args(words)
    if arguments.command is None:
        parser().print_help()
        return Exit.USAGE
    try:
        code = run(arguments)
        sys.stdout.flush()
    except CommandFailed as error:
        sys.stderr.write(f"meshctl {arguments.command}: {error}\n")
        return error.code
    except MeshError as error:
        sys.stderr.write(f"meshctl {arguments.command}: {error}\n")
        return Exit.DEGRADED
    except BrokenPipeError:  # `meshctl tail ticks | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.HEALTHY
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells have it
    return code


if __name__ == "__main__":
    sys.exit(main())
