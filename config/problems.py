"""Every problem of a configuration in one report, each with key, value, origin and remedy.

Nothing here stops at the first problem: an operator corrects all of them in one go. Values of
secrets never appear.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

#: EX_CONFIG of sysexits.h: the configuration is wrong and starting again will not help.
EXIT_CONFIGURATION = 78

MASK = "***"
_SECRET_WORDS = re.compile(r"(password|passphrase|secret|token|credential|private_key|signing_key)")
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_LONGEST_VALUE = 80

_REMEDIES = {
    "missing": "give it a value",
    "bool_parsing": "give true or false",
    "bool_type": "give true or false",
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "string_type": "give text",
    "path_type": "give a path",
    "tuple_type": "give a list",
    "list_type": "give a list",
    "dict_type": "give a table of keys",
    "model_type": "give a table of keys",
    "model_attributes_type": "give a table of keys",
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give {ge} or more",
    "less_than": "give less than {lt}",
    "less_than_equal": "give {le} or less",
    "literal_error": "give one of {expected}",
    "enum": "give one of {expected}",
    "string_pattern_mismatch": "give text of the form {pattern}",
    "string_too_short": "give at least {min_length} characters",
    "string_too_long": "give at most {max_length} characters",
    "too_short": "give at least {min_length} items",
    "too_long": "give at most {max_length} items",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem: key, its value, why it is refused, the origin of the value, and the remedy."""

    key: str
    value: str
    reason: str
    remedy: str
    origin: str = ""

    def __str__(self) -> str:
        """Render the problem as one line."""
        held = f" = {self.value}" if self.value else ""
        origin = f" (from {self.origin})" if self.origin else ""
        return f"{self.key}{held}{origin}: {self.reason}; {self.remedy}"


class ConfigProblems(Exception):
    """The configuration cannot be used: `problems` holds all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem], profile: str = "") -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.profile = profile
        super().__init__(self.problems, profile)

    def __str__(self) -> str:
        """Render the report: one line a problem."""
        count = len(self.problems)
        of = f" of profile {self.profile}" if self.profile else ""
        head = f"configuration{of}: {count} problem{'s' if count != 1 else ''}"
        return "\n".join([head, *(f"  {problem}" for problem in self.problems)])


def is_secret(key: str) -> bool:
    """Whether the value of dotted `key` must never be shown."""
    return _SECRET_WORDS.search(key.lower().replace(".", "_").replace("-", "_")) is not None


def shown(key: str, value: object) -> str:
    """`value` of `key` as a report may show it: secrets masked, long values cut."""
    if value is None or value == "":
        return '""' if value == "" else ""
    if is_secret(key):
        return MASK
    if isinstance(value, Mapping):
        text = repr(masked(value))
    elif isinstance(value, str):
        text = f'"{value}"'
    else:
        text = str(value)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def masked(value: Any) -> Any:
    """`value` with everything below a secret key masked."""
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret(str(key)) and below not in ("", None) else masked(below)
            for key, below in value.items()
        }
    return [masked(each) for each in value] if isinstance(value, list) else value


def hidden(key: str, value: Any) -> Any:
    """`value` of `key` with what is secret in it masked, passwords in URLs too."""
    if is_secret(key) and value not in ("", None):
        return MASK
    if isinstance(value, str):
        return _URL_PASSWORD.sub(rf"\1:{MASK}@", value)
    return masked(value) if isinstance(value, Mapping) else value


def nearest(word: str, known: Sequence[str]) -> str:
    """A remedy for the unknown name `word`: the known one it resembles, or all of them."""
    if close := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(known)}" if known else "remove it"


def from_validation(
    error: ErrorDetails,
    *,
    key: str,
    value: object,
    misspelt: str,
    origin: str,
    description: str,
    known: Sequence[str],
) -> Problem:
    """Translate one pydantic error about `key` into a Problem.

    `description` is the field's own (it names units and meaning), `misspelt` the part of the key
    that is at fault, `known` are the names it could have been.
    """
    kind = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(
            key,
            shown(key, value),
            "no such setting",
            nearest(misspelt, known),
            origin,
        )
    remedy = _REMEDIES.get(kind, "correct it").format_map(_Defaulting(context))
    if description:
        remedy += f" [{description}]"
    text = "" if kind == "missing" else shown(key, value)
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return Problem(key, text, reason[:1].lower() + reason[1:], remedy, origin)


class _Defaulting(dict[str, Any]):
    """A mapping for str.format_map that leaves what it does not know."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"
