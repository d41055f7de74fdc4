"""`meshctl [--mesh DIR] COMMAND`: the table of commands, the parser made from it, the exit codes.

A command's module is imported when it is asked for, so that each starts with the least there is.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from mesh import Mesh, MeshError
from mesh.ctl.failure import CommandFailed, Exit

TMPFS = Path("/dev/shm")  # noqa: S108 - where meshes lie
DEFAULT = TMPFS / "tradingmesh"
MESH_VARIABLE = "MESH__MESH__PATH"  # the daemon takes its mesh from it too


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command: argparse's words, and what completes it."""

    flags: tuple[str, ...]
    help: str
    options: dict[str, Any] = field(default_factory=dict)
    completes: str = ""  # workers, segments, rings, locks, files


@dataclass(frozen=True, slots=True)
class Command:
    """One command: where its function is, and what it takes."""

    name: str
    help: str
    where: str  # package.module:function
    arguments: tuple[Argument, ...] = ()
    example: str = ""
    mesh: Path | None = None  # the mesh it means when none is named; None: one that is there


FORMAT = Argument(
    ("--format",), "table for people, json for programs", {"choices": ("table", "json")}
)
WORKER = Argument(("worker",), "name of a worker", {"metavar": "WORKER"}, "workers")

COMMANDS: tuple[Command, ...] = (
    Command(
        "status",
        "state of the daemon, the workers and the flow of data",
        "mesh.ctl.commands.status:status",
        (
            Argument(("worker",), "one worker, in full", {"nargs": "?", "metavar": "WORKER"},
                     "workers"),
            FORMAT,
            Argument(("--wait-ready",), "wait until everything required runs, at most so long",
                     {"type": float, "metavar": "SECONDS"}),
        ),
        "exit code: 0 healthy, 1 degraded, 2 down",
    ),
    Command(
        "top",
        "the same, live; keys: q quit, s sort, r restart, l log",
        "mesh.ctl.commands.top:top",
        (
            Argument(("--interval",), "seconds between two looks (1)",
                     {"type": float, "default": 1.0, "metavar": "SECONDS"}),
        ),
    ),
    Command("segments", "every segment: kind, size, writer", "mesh.ctl.commands.segments:segments",
            (FORMAT,)),
    Command(
        "show",
        "content of a segment, decoded by the schema it carries",
        "mesh.ctl.commands.show:show",
        (
            Argument(("segment",), "name of a segment", {"metavar": "SEGMENT"}, "segments"),
            Argument(("-n", "--records"), "records of a ring, rows of a table (10)",
                     {"type": int, "default": 10, "metavar": "N"}),
            Argument(("--key",), "one row of a table", {"metavar": "KEY"}),
            Argument(("--schema",), "the schema instead of the content", {"action": "store_true"}),
            FORMAT,
        ),
    ),
    Command(
        "tail",
        "records of a ring as they are published",
        "mesh.ctl.commands.tail:tail",
        (
            Argument(("ring",), "name of a ring", {"metavar": "RING"}, "rings"),
            Argument(("-n", "--records"), "records before the newest to begin with (10)",
                     {"type": int, "default": 10, "metavar": "N"}),
            Argument(("--fields",), "only these, separated by commas", {"metavar": "NAMES"}),
            Argument(("--no-follow",), "end after what is there", {"action": "store_true"}),
            FORMAT,
        ),
    ),
    Command(
        "demo",
        "run the whole loop here on an embedded broker, then top; q stops everything",
        "mesh.ctl.commands.demo:demo",
        (
            Argument(("--data",), "Lean option minute zip or a folder of such; else synthetic",
                     {"type": Path, "metavar": "PATH"}, "files"),
            Argument(("--run-directory",), "where logs and tracking go, and stay; else a "
                     "temporary one", {"type": Path, "metavar": "DIR"}, "files"),
            Argument(("--set",), "a setting of the daemon, as meshd takes it",
                     {"action": "append", "default": [], "metavar": "KEY=VALUE"}),
        ),
        "without a terminal: status lines, ends after DEMO_SECONDS (60)",
        TMPFS / "tradingmesh-demo",
    ),
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of sysexits.h for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to learn more."""
        sys.stderr.write(f"{self.prog}: {message}; try `{self.prog} --help`\n")
        sys.exit(Exit.USAGE)


def parser() -> Parser:
    """Make the parser from the table."""
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
    for command in COMMANDS:
        each = below.add_parser(
            command.name,
            help=command.help,
            description=command.help,
            epilog=command.example,
            parents=[mesh],
        )
        for argument in command.arguments:
            each.add_argument(*argument.flags, help=argument.help, **argument.options)
    return top


def find_mesh(given: Path | None, default: Path | None = None) -> Path:
    """Give the mesh directory that is meant. Raises CommandFailed where several could be."""
    if given is not None:
        return given
    if named := os.environ.get(MESH_VARIABLE):
        return Path(named)
    if default is not None:
        return default
    if (DEFAULT / "supervisor").exists():
        return DEFAULT
    found = [path.parent for path in sorted(TMPFS.glob(f"{DEFAULT.name}*/supervisor"))]
    if len(found) > 1:
        several = ", ".join(map(str, found))
        raise CommandFailed(f"several meshes are there: {several}; name one: --mesh DIR", 64)
    return found[0] if found else DEFAULT


def run(options: argparse.Namespace) -> int:
    """Carry out the command of parsed arguments and give its exit code."""
    command = next(each for each in COMMANDS if each.name == options.command)
    module, _, function = command.where.partition(":")
    path = find_mesh(getattr(options, "mesh", None), command.mesh)
    perform = getattr(importlib.import_module(module), function)
    return int(perform(Mesh(path), options))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshctl` and give its exit code; every error is one line."""
    arguments = parser().parse_args(argv)
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
