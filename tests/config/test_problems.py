"""Problems: masking, cutting, remedies."""

from __future__ import annotations

import pickle

import pytest

from config.problems import ConfigProblems, Problem, is_secret, nearest, shown


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("kafka.sasl_password", True),
        ("kafka.extra.sasl.password", True),
        ("gateway.signing_key", True),
        ("tracking.token", True),
        ("ingest.key_field", False),
        ("workers.td3-0.nice", False),
    ],
)
def test_secret_keys_are_recognised_by_name(key, secret):
    """A key whose name speaks of a secret is one."""
    assert is_secret(key) is secret


def test_secrets_inside_a_table_are_masked():
    """A free table shows its keys but not its secrets."""
    text = shown("kafka.extra", {"sasl.username": "mesh", "sasl.password": "hunter2"})
    assert "mesh" in text
    assert "hunter2" not in text


def test_long_values_are_cut():
    """A report stays readable whatever was pasted into it."""
    assert len(shown("a.b", "x" * 1000)) <= 80


def test_nearest_name_is_offered():
    """A slip is answered with the name that was meant, nonsense with all names."""
    assert nearest("pth", ["path", "mode"]) == "did you mean 'path'?"
    assert nearest("zzz", ["path", "mode"]) == "known here: path, mode"


def test_problem_is_one_line_with_all_its_parts():
    """Key, value, origin, reason and remedy are in it."""
    line = str(Problem("a.b", '"1"', "too small", "give 2", "a.toml"))
    assert line == 'a.b = "1" (from a.toml): too small; give 2'


def test_report_survives_pickling():
    """A child process can hand its report to its parent."""
    report = ConfigProblems([Problem("a", "1", "b", "c")], "demo")
    assert str(pickle.loads(pickle.dumps(report))) == str(report)
