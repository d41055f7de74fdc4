"""`meshctl [--mesh DIR] COMMAND`: the table of commands, the parser made from it, the exit codes.

Only the module of the command that runs is imported, so that every command starts fast.
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

TMPFS = Path("/dev/shm")  # noqa: S108 - the default tmpfs for meshes
DEFAULT = TMPFS / "tradingmesh"
MESH_VARIABLE = "MESH__MESH__PATH"  # the daemon reads it too


class Argument(NamedTuple):
    """One argument of a command: what argparse needs, and how shells complete it."""

    flags: tuple[str, ...]
    help: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never modified
    completes: str = ""  # workers, segments, rings, locks, files


class Command(NamedTuple):
    """One command: its function and its arguments."""

    name: str
    help: str
    where: str  # package.module:function
    arguments: tuple[Argument, ...] = ()
    example: str = ""
    mesh: Path | None = None  # its default mesh; None: the search of `find_mesh`
    needs_mesh: bool = True  # False: its function takes only the options


FORMAT = Argument(
    ("--format",), "output format: table (default) or json", {"choices": ("table", "json")}
)
RECORDS = ("-n", "--records")
TARGET = Argument(
    ("target",), "name of a worker or of a group of workers", {"metavar": "WORKER"}, "workers"
)
WAIT = Argument(
    ("--wait",),
    "wait up to SECONDS until the worker has reached the new state",
    {"type": float, "metavar": "SECONDS"},
)
CONTROL = "workers.ctl.commands.control:control"
SET = Argument(
    ("--set",),
    "override one setting of the daemon, as with meshd --set",
    {"action": "append", "default": [], "metavar": "KEY=VALUE"},
)


def count(default: int, help_: str) -> Argument:
    """Return the argument that limits the output.

    Args:
        default: Number of records without the argument; its help names it.
        help_: What is counted.
    """
    return Argument(
        RECORDS, f"{help_} (default: {default})", {"type": int, "default": default, "metavar": "N"}
    )


def follow(help_: str) -> Argument:
    """Return the argument that keeps printing new records; `help_` names them."""
    return Argument(("-f", "--follow"), help_, {"action": "store_true"})


COMMANDS: tuple[Command, ...] = (
    Command(
        "status",
        "state of the daemon, the workers and the flow of data",
        "workers.ctl.commands.status:status",
        (
            Argument(
                ("worker",),
                "show one worker in full",
                {"nargs": "?", "metavar": "WORKER"},
                "workers",
            ),
            FORMAT,
            Argument(
                ("--wait-ready",),
                "wait up to SECONDS until every required worker runs",
                {"type": float, "metavar": "SECONDS"},
            ),
        ),
        "exit code: 0 healthy, 1 degraded, 2 down",
    ),
    Command(
        "top",
        "live view of the status (q quits, h lists the keys)",
        "workers.ctl.commands.top:top",
        (
            Argument(
                ("--interval",),
                "seconds between updates (default: 1)",
                {"type": float, "default": 1.0, "metavar": "SECONDS"},
            ),
        ),
    ),
    Command(
        "segments",
        "list every segment with its kind, size and writer",
        "workers.ctl.commands.segments:segments",
        (FORMAT,),
    ),
    Command(
        "show",
        "show the content of a segment, decoded by its own schema",
        "workers.ctl.commands.show:show",
        (
            Argument(("segment",), "name of a segment", {"metavar": "SEGMENT"}, "segments"),
            count(10, "number of ring records or table rows"),
            Argument(("--key",), "show one row of a table", {"metavar": "KEY"}),
            Argument(
                ("--schema",), "show the schema instead of the content", {"action": "store_true"}
            ),
            FORMAT,
        ),
    ),
    Command(
        "tail",
        "print the records of a ring as they are published",
        "workers.ctl.commands.tail:tail",
        (
            Argument(("ring",), "name of a ring", {"metavar": "RING"}, "rings"),
            count(10, "number of existing records to print first"),
            Argument(
                ("--fields",),
                "fields to print, separated by commas (default: all)",
                {"metavar": "NAMES"},
            ),
            Argument(
                ("--no-follow",), "print the existing records and exit", {"action": "store_true"}
            ),
            FORMAT,
        ),
    ),
    Command(
        "locks",
        "list locks and write leases with their owners",
        "workers.ctl.commands.locks:locks",
        (FORMAT,),
    ),
    Command(
        "events",
        "list events: starts, deaths, restarts, adoptions",
        "workers.ctl.commands.events:events",
        (
            Argument(
                ("worker",),
                "show the events of one worker only",
                {"nargs": "?", "metavar": "WORKER"},
                "workers",
            ),
            count(20, "number of newest events"),
            follow("keep printing new events"),
            Argument(
                ("--incidents",),
                "show failures in full: evidence, times, locks and leases freed",
                {"action": "store_true"},
            ),
            FORMAT,
        ),
    ),
    Command(
        "logs",
        "print the end of a worker's log",
        "workers.ctl.commands.logs:logs",
        (
            Argument(("worker",), "name of a worker", {"metavar": "WORKER"}, "workers"),
            count(50, "number of lines"),
            follow("keep printing new lines, also after the log was rotated"),
            FORMAT,
        ),
    ),
    Command(
        "doctor",
        "check this host for problems and suggest remedies",
        "workers.ctl.commands.doctor:doctor",
        (FORMAT,),
        "exit code: 1 if a check reports bad, else 0",
    ),
    Command("start", "start a stopped worker", CONTROL, (TARGET, WAIT)),
    Command(
        "stop", "stop a worker and keep it stopped until `meshctl start`", CONTROL, (TARGET, WAIT)
    ),
    Command(
        "restart",
        "restart a worker, or the workers of a group one after the other",
        CONTROL,
        (TARGET, WAIT),
    ),
    Command("reset", "take a worker out of quarantine and start it", CONTROL, (TARGET, WAIT)),
    Command(
        "break-lock",
        "free a lock whose owner has died",
        CONTROL,
        (Argument(("target",), "name of a lock", {"metavar": "LOCK"}, "locks"),),
    ),
    Command(
        "unlink",
        "remove an unused segment; its writer recreates it, with new sizes",
        "workers.ctl.commands.unlink:unlink",
        (
            Argument(("segment",), "name of a segment", {"metavar": "SEGMENT"}, "segments"),
            Argument(("-y", "--yes"), "do not ask for confirmation", {"action": "store_true"}),
        ),
        "refused while a live process writes the segment, holds the lock or has a heartbeat row",
    ),
    Command("reload", "reload the configuration; unchanged workers keep running", CONTROL),
    Command("upgrade", "replace the daemon's program; all workers keep running", CONTROL),
    Command("shutdown", "stop all workers and the daemon", CONTROL),
    Command(
        "config",
        "check a configuration: list its problems, or the workers it would start",
        "workers.ctl.commands.config:config",
        (
            Argument(("action",), "check: the only action so far", {"choices": ("check",)}),
            Argument(
                ("--profile",),
                "name of a shipped profile, or a TOML file",
                {"metavar": "NAME"},
                "files",
            ),
            SET,
        ),
        "exit code: 78 if the configuration has problems, else 0",
        needs_mesh=False,
    ),
    Command(
        "evaluate",
        "evaluate a trainer's newest policy against the baselines",
        "workers.ctl.commands.evaluate:evaluate",
        (
            Argument(
                ("trainer",),
                "trainer whose policy is evaluated (default: td3-0)",
                {"nargs": "?", "default": "td3-0", "metavar": "TRAINER"},
                "workers",
            ),
            Argument(
                ("--data",),
                "recorded market data (default: a synthetic market)",
                {"type": Path, "metavar": "PATH"},
                "files",
            ),
            Argument(
                ("--episodes",),
                "number of episodes (default: 16)",
                {"type": int, "default": 16, "metavar": "N"},
            ),
            Argument(
                ("--out",),
                "directory for report.json and report.png",
                {"type": Path, "metavar": "DIR"},
                "files",
            ),
        ),
    ),
    Command(
        "record",
        "record market states to a Parquet file until interrupted",
        "workers.ctl.commands.evaluate:record",
        (
            Argument(
                ("--out",),
                "Parquet file to write",
                {"type": Path, "required": True, "metavar": "FILE"},
                "files",
            ),
            Argument(
                ("--states",),
                "stop after N states (default: no limit)",
                {"type": int, "default": 0, "metavar": "N"},
            ),
            Argument(
                ("--seconds",),
                "stop after SECONDS (default: no limit)",
                {"type": float, "default": 0.0, "metavar": "SECONDS"},
            ),
        ),
    ),
    Command(
        "completion",
        "print a completion script for a shell",
        "workers.ctl.commands.completion:completion",
        (Argument(("shell",), "the shell", {"choices": ("bash", "zsh", "fish")}),),
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
        "run the whole loop on this host with an embedded broker, and show top",
        "workers.ctl.commands.demo:demo",
        (
            Argument(
                ("--data",),
                "Lean minute zip or a directory of them (default: a synthetic market)",
                {"type": Path, "metavar": "PATH"},
                "files",
            ),
            Argument(
                ("--run-directory",),
                "directory to keep logs and tracking data in (default: a temporary one)",
                {"type": Path, "metavar": "DIR"},
                "files",
            ),
            SET,
        ),
        "Without a terminal it prints status lines and ends after $DEMO_SECONDS (default: 60).",
        TMPFS / "tradingmesh-demo",
    ),
)


class Parser(argparse.ArgumentParser):
    """argparse with the exit code of sysexits.h for wrong usage."""

    def error(self, message: str) -> NoReturn:
        """Print the error with a hint at `--help`, and exit with EX_USAGE."""
        sys.stderr.write(f"{self.prog}: {message}; try `{self.prog} --help`\n")
        sys.exit(Exit.USAGE)


def parser(words: Sequence[str] = ()) -> Parser:
    """Build the parser from the table of commands.

    Args:
        words: The command line. Only the subparser of the command in it is built, because building
            all of them takes longer than most commands; without a command all are built.
    """
    word = _command_word(words)
    named = [command for command in COMMANDS if command.name == word]
    mesh = Parser(add_help=False)
    mesh.add_argument(
        "--mesh",
        type=Path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help=f"directory of the mesh (default: ${MESH_VARIABLE}, {DEFAULT} or the only mesh found)",
    )
    top = Parser(
        prog="meshctl",
        description="Show and control a tradingmesh; most commands work without its daemon.",
        parents=[mesh],
    )
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in named or COMMANDS:
        # a command without help text is not listed
        listed: dict[str, Any] = {"help": command.help} if command.help else {}
        subparser = subparsers.add_parser(
            command.name,
            description=command.help,
            epilog=command.example,
            parents=[mesh],
            **listed,
        )
        for argument in command.arguments:
            subparser.add_argument(*argument.flags, help=argument.help, **argument.options)
    return top


def _command_word(words: Sequence[str]) -> str:
    """Return the first word that is neither an option nor its value; empty before `--help`."""
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
    """Return the directory of the mesh to use.

    Args:
        given: The value of `--mesh`, if any.
        default: The mesh of a command that has its own.

    Raises:
        CommandFailed: Several meshes exist and none was named.
    """
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
        raise CommandFailed(f"there are several meshes: {several}; choose one with --mesh DIR", 64)
    return found[0] if found else DEFAULT


def run(options: argparse.Namespace) -> int:
    """Run the command of the parsed arguments and return its exit code."""
    command = next(each for each in COMMANDS if each.name == options.command)
    module, _, function = command.where.partition(":")
    perform = getattr(importlib.import_module(module), function)
    if not command.needs_mesh:
        return int(perform(options))
    path = find_mesh(getattr(options, "mesh", None), command.mesh)
    # no command multiplies matrices, so the threads of OpenBLAS would only cost start-up time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from mesh import Mesh  # noqa: PLC0415 - loads the C core, which not every command needs

    return int(perform(Mesh(path), options))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshctl` and return its exit code; an error is printed as one line.

    Args:
        argv: The words after the program's name; None: those of the process.
    """
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
        return 130  # 128 + SIGINT, as in shells
    return code


if __name__ == "__main__":
    sys.exit(main())
