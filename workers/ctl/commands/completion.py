"""`meshctl completion SHELL`: a completion script made from the table of commands.

Names that depend on the mesh (workers, segments) are fetched during completion, with
`meshctl words KIND`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from workers.ctl.cli import COMMANDS, Argument, Command
from workers.ctl.failure import Exit

KINDS = ("workers", "segments", "rings", "locks")


def completion(options: argparse.Namespace) -> int:
    """Print the completion script of a shell."""
    make = {"bash": _bash, "zsh": _zsh, "fish": _fish}[options.shell]
    print("\n".join(make()))
    return Exit.HEALTHY


def _shown() -> list[Command]:
    return [command for command in COMMANDS if command.help]


def _options(command: Command) -> list[str]:
    return [
        "--help",
        "--mesh",
        *(flag for each in command.arguments for flag in each.flags if flag.startswith("-")),
    ]


def _positional(command: Command) -> Argument | None:
    return next((a for a in command.arguments if not a.flags[0].startswith("-")), None)


def _source(argument: Argument) -> str:
    """Return the shell words that list the values of an argument; empty: free text, or files."""
    if argument.completes in KINDS:
        return f"$(meshctl $mesh words {argument.completes} 2>/dev/null)"
    return " ".join(argument.options.get("choices", ()))


def _bash() -> Iterator[str]:
    names = " ".join(command.name for command in _shown())
    yield "# meshctl completion bash: source it, or put it into /etc/bash_completion.d"
    yield "_meshctl() {"
    yield '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"'
    yield '  local command="" mesh="" i'
    yield "  for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '    case "${COMP_WORDS[i]}" in'
    yield '      --mesh) mesh="--mesh ${COMP_WORDS[i+1]}"; ((i++)) ;;'
    yield "      -*) ;;"
    yield '      *) command="${COMP_WORDS[i]}"; break ;;'
    yield "    esac"
    yield "  done"
    yield '  case "$previous" in'
    yield '    --mesh) COMPREPLY=($(compgen -d -- "$current")); return ;;'
    for argument in {a.flags[0]: a for c in _shown() for a in c.arguments}.values():
        if argument.options.get("choices") and argument.flags[0].startswith("-"):
            yield (
                f'    {argument.flags[0]}) COMPREPLY=($(compgen -W "{_source(argument)}" -- '
                '"$current")); return ;;'
            )
        elif argument.completes == "files":
            yield f'    {argument.flags[0]}) COMPREPLY=($(compgen -f -- "$current")); return ;;'
    yield "  esac"
    yield "  local words"
    yield '  case "$command" in'
    yield f'    "") words="{names} --mesh --help" ;;'
    for command in _shown():
        positional = _positional(command)
        source = _source(positional) if positional is not None else ""
        yield f'    {command.name}) words="{" ".join(_options(command))} {source}" ;;'
    yield "  esac"
    yield '  COMPREPLY=($(compgen -W "$words" -- "$current"))'
    yield "}"
    yield "complete -F _meshctl meshctl"


def _zsh() -> Iterator[str]:
    yield "#compdef meshctl"
    yield "_meshctl() {"
    yield "  local -a commands mesh"
    yield "  local -a line"
    yield "  local state"
    yield "  (( ${words[(I)--mesh]} )) && mesh=(--mesh ${words[${words[(I)--mesh]}+1]})"
    yield "  commands=("
    for command in _shown():
        yield f"    '{command.name}:{_quoted(command.help)}'"
    yield "  )"
    yield "  _arguments -C '--mesh[directory of the mesh]:directory:_directories' \\"
    yield "    '1:command:->command' '*::argument:->argument'"
    yield '  case "$state" in'
    yield "    command) _describe -t commands command commands ;;"
    yield "    argument)"
    yield '      case "$line[1]" in'
    for command in _shown():
        specs = " ".join(_zsh_spec(argument) for argument in command.arguments)
        yield f"        {command.name}) _arguments '--mesh[directory of the mesh]:directory:_directories' {specs} ;;"  # noqa: E501 - one line of the script
    yield "      esac ;;"
    yield "  esac"
    yield "}"
    yield '_meshctl "$@"'


def _zsh_spec(argument: Argument) -> str:
    source = _source(argument)
    action = "_files" if argument.completes == "files" else f"({source})" if source else " "
    takes = "store_true" not in argument.options.values()
    name = _quoted(argument.help)
    if not argument.flags[0].startswith("-"):
        return f'"1:{argument.flags[0]}:{action}"'
    value = f":value:{action}" if takes else ""
    return " ".join(f'"{flag}[{name}]{value}"' for flag in argument.flags)


def _fish() -> Iterator[str]:
    yield "# meshctl completion fish > ~/.config/fish/completions/meshctl.fish"
    yield "complete -c meshctl -f"
    yield "complete -c meshctl -l mesh -r -a '(__fish_complete_directories)' -d 'directory of the mesh'"  # noqa: E501 - one line of the script
    names = " ".join(command.name for command in _shown())
    for command in _shown():
        yield (
            f"complete -c meshctl -n 'not __fish_seen_subcommand_from {names}' "
            f"-a {command.name} -d '{_quoted(command.help)}'"
        )
    for command in _shown():
        for argument in command.arguments:
            yield _fish_line(command, argument)


def _fish_line(command: Command, argument: Argument) -> str:
    parts = [f"complete -c meshctl -n '__fish_seen_subcommand_from {command.name}'"]
    for flag in argument.flags:
        if flag.startswith("--"):
            parts.append(f"-l {flag[2:]}")
        elif flag.startswith("-"):
            parts.append(f"-s {flag[1:]}")
    if argument.options.get("action") != "store_true" and argument.flags[0].startswith("-"):
        parts.append("-r" if argument.completes == "files" else "-x")
    if argument.completes == "files":
        parts.append("-F")
    elif source := _source(argument):
        parts.append(f"-a '{source.replace('$(', '(').replace(' $mesh', '')}'")
    return " ".join([*parts, f"-d '{_quoted(argument.help)}'"])


def _quoted(text: str) -> str:
    """Return text that is safe within single or double quotes of every shell."""
    return "".join(" " if character in "'\"`$\\[]:" else character for character in text)
