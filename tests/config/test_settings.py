"""Settings: which source wins, and that one report names every problem."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from workers.contract.dtypes import EXPERIENCE_DTYPE

PROFILES = ["demo", "development", "production"]


def problems_of(profile, overrides=(), *, environ=None, directory=Path("/nonexistent")):
    """The problems that loading reports, by key."""
    with pytest.raises(ConfigProblems) as caught:
        load_settings(profile, overrides, environ=environ or {}, directory=directory)
    return {problem.key: problem for problem in caught.value.problems}


def write_profile(directory, text):
    """A profile file with `text`."""
    file = directory / "host.toml"
    file.write_text(text)
    return file


def test_defaults_stand_without_any_source(tmp_path):
    """Nothing given: the defaults, which are valid."""
    assert load_settings(environ={}, directory=tmp_path) == Settings()


def test_each_source_wins_over_the_one_before(tmp_path):
    """Defaults < TOML < .env < environment < credentials < --set, key by key."""
    profile = write_profile(tmp_path, '[mesh]\npath = "/toml"\n[logging]\nkeep = 1\n')
    credentials = tmp_path / "credentials"
    credentials.mkdir()

    def loaded(environ=None, overrides=()):
        return load_settings(profile, overrides, environ=environ or {}, directory=tmp_path)

    assert loaded().mesh.path == Path("/toml")
    (tmp_path / ".env").write_text("export MESH__MESH__PATH='/dotenv' \nOTHER=1\n# remark\n")
    assert loaded().mesh.path == Path("/dotenv")
    environ = {"MESH__MESH__PATH": "/environment"}
    assert loaded(environ).mesh.path == Path("/environment")
    (credentials / "mesh.path").write_text("/credential\n")
    (credentials / "kafka-ca.pem").write_text("a file that is no setting")
    environ["CREDENTIALS_DIRECTORY"] = str(credentials)
    assert loaded(environ).mesh.path == Path("/credential")
    assert loaded(environ, ["mesh.path=/set"]).mesh.path == Path("/set")
    assert loaded(environ, ["mesh.path=/set"]).logging.keep == 1


def test_every_problem_is_reported_at_once(tmp_path):
    """Mistakes in all sources and in rules: one report names each with its origin."""
    profile = write_profile(tmp_path, '[mesh]\npaht = "/x"\n[logging]\nlevel = "loud"\n')
    (tmp_path / ".env").write_text("what is this\nMESH__LOGGING__KEEP=-1\n")
    environ = {"ENVIRONMENT": "prod", "MESH__LOGGING__MAX_BYTES": "many", "MESH__DEBUG": "true"}
    found = problems_of(
        profile, ["nonsense", "mesh.mode=0777"], environ=environ, directory=tmp_path
    )
    assert set(found) == {
        "mesh.paht",
        "logging.level",
        ".env",
        "logging.keep",
        "logging.max_bytes",
        "debug",
        "--set",
        "mesh.mode",
    }
    assert "did you mean 'path'?" in found["mesh.paht"].remedy
    assert found["mesh.paht"].origin == str(profile)
    assert found["logging.max_bytes"].origin == "environment MESH__LOGGING__MAX_BYTES"
    assert found["logging.max_bytes"].value == '"many"'
    assert "whole number" in found["logging.max_bytes"].remedy
    assert "bytes" in found["logging.max_bytes"].remedy


def test_report_is_one_line_a_problem(tmp_path):
    """The text has a head line and one line for each problem."""
    with pytest.raises(ConfigProblems) as caught:
        load_settings("absent.toml", ["mesh.mode=9"], environ={}, directory=tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + len(caught.value.problems) == 3
    assert "absent.toml" in lines[0]


def test_exit_code_is_that_of_sysexits():
    """78 tells systemd and scripts that starting again will not help."""
    assert EXIT_CONFIGURATION == 78


def test_missing_profile_names_the_shipped_ones():
    """An unknown profile is answered with those there are."""
    found = problems_of("prodution")
    assert all(name in found["profile"].remedy for name in PROFILES)


def test_broken_toml_names_file_and_line(tmp_path):
    """A syntax error says where it is."""
    profile = write_profile(tmp_path, "[mesh]\npath = \n")
    problem = problems_of(profile)["profile"]
    assert str(profile) in problem.value
    assert "line 2" in problem.reason


def test_unreadable_profile_is_a_problem(tmp_path):
    """A directory in place of a file is reported like any other problem."""
    assert "profile" in problems_of(tmp_path)


def test_misspelt_environment_variable_is_not_ignored():
    """A variable with our prefix that means nothing is a mistake somebody made."""
    found = problems_of(None, environ={"MESH__LOGING__LEVEL": "info"})
    assert "did you mean 'logging'?" in found["loging.level"].remedy


def test_override_of_an_unknown_worker_names_the_known_ones(tmp_path):
    """A misspelt worker name does not become a worker."""
    profile = write_profile(tmp_path, "[workers]\n")
    found = problems_of(profile, ["workers.fedeer.nice=5"])
    assert found["workers.fedeer"].origin == "--set workers.fedeer.nice"


@pytest.mark.parametrize(
    "key", ["kafka.sasl_password", "registry.api_token", "gateway.signing_key", "a.Client-Secret"]
)
def test_secrets_never_appear_in_a_report(key):
    """Not in a wrong key, not in a malformed override or variable."""
    variable = "MESH__" + key.replace(".", "__").upper()
    with pytest.raises(ConfigProblems) as caught:
        load_settings(
            None,
            [f"{key}=hunter2", f"{key}:hunter2"],
            environ={variable: '["hunter2"'},
            directory=Path("/nonexistent"),
        )
    assert "hunter2" not in str(caught.value)
    assert "***" in str(caught.value)


def test_the_text_of_settings_shows_no_secret():
    """repr() and str(), which an error or a log may quote, mask secrets at every depth."""
    worker = {"name": "w", "worker": "a:B", "env": {"MLFLOW_TRACKING_TOKEN": "s3cret", "A": "b"}}
    settings = Settings.model_validate(
        {
            "kafka": {"options": {"sasl.password": "s3cret"}, "registry_password": "s3cret"},
            "tracking": {"uri": "https://user:s3cret@mlflow:5000"},
            "workers": [worker],
        }
    )
    for text in (repr(settings), str(settings), f"{settings.kafka} {settings.workers[0]!r}"):
        assert "s3cret" not in text
    assert "https://user:***@mlflow:5000" in repr(settings)
    assert "'A': 'b'" in repr(settings)
    assert settings.kafka.options["sasl.password"] == "s3cret"


def test_password_in_an_address_is_masked():
    """user:password@ in a URL is a secret whatever the key is called."""
    found = problems_of(None, ["database.address=postgresql://mesh:hunter2@db/mesh"])
    assert "hunter2" not in str(found["database.address"])
    assert "postgresql://mesh:***@db/mesh" in str(found["database.address"])


@pytest.mark.parametrize(("short", "full"), [("prod", "production"), ("dev", "development")])
def test_environment_may_be_abbreviated(short, full):
    """ENVIRONMENT=prod is what people write."""
    assert Settings(environment=short).environment == full


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("debug=true", "debug"),
        ("logging.level=debug", "logging.level"),
        ("mesh.mode=0755", "mesh.mode"),
    ],
)
def test_production_refuses_what_is_only_fit_for_a_desk(override, key):
    """The same setting passes in development and is refused in production."""
    load_settings(None, [override], environ={}, directory=Path("/nonexistent"))
    found = problems_of(None, [override, "environment=production"])
    assert "refused in production" in found[key].reason


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('[workers.ingest]\nworker = "workers.ingest.worker:I"', "kafka.bootstrap_servers"),
        ('[workers.ingest]\nworker = "workers.ingest.worker:I"', "kafka.registry_url"),
        (
            '[kafka]\nregistry_url = "http://r"\n[workers.i]\nworker = "workers.ingest.w:I"',
            "kafka.registry_url",
        ),
        (
            """[kafka.options]\n"security.protocol" = "sasl_plaintext"
[workers.i]\nworker = "workers.ingest.w:I\"""",
            "kafka.options.security.protocol",
        ),
        ('[workers.b]\nworker = "workers.broker.worker:B"', "workers"),
        ('[workers.s]\nworker = "workers.shipper.worker:S"', "tracking.uri"),
        (
            '[tracking]\nuri = "sqlite:///x"\n[workers.s]\nworker = "workers.shipper.worker:S"',
            "tracking.uri",
        ),
    ],
)
def test_production_refuses_plaintext_embedded_and_sqlite(tmp_path, lines, key):
    """What a desk's workers may use, a production host must not."""
    profile = tmp_path / "host.toml"
    profile.write_text(lines)
    found = problems_of(str(profile), ["environment=production"])
    assert "refused in production" in found[key].reason
    load_settings(str(profile), environ={}, directory=Path("/nonexistent"))


def test_settings_are_frozen():
    """What was checked stays what it is."""
    with pytest.raises(ValidationError):
        Settings().debug = True


def test_fingerprint_follows_the_settings_and_not_the_secrets():
    """Equal settings have equal fingerprints; another value changes it."""
    assert Settings().fingerprint() == Settings().fingerprint()
    assert Settings(debug=True).fingerprint() != Settings().fingerprint()


def problems_or_none(*args, **kwargs):
    """The report that loading ends in, or None when it ends in settings."""
    try:
        load_settings(*args, **kwargs)
    except ConfigProblems as report:
        return report
    return None


@pytest.mark.parametrize("profile", ["demo", "development"])
def test_shipped_profiles_are_valid(profile, tmp_path):
    """A profile we ship loads as it is."""
    assert problems_or_none(profile, environ={}, directory=tmp_path) is None


def test_production_profile_lacks_only_what_the_host_must_give(tmp_path):
    """The shipped production profile has no fault but what it refuses to guess."""
    report = problems_or_none("production", environ={}, directory=tmp_path)
    assert {problem.key for problem in report.problems} == {
        "kafka.bootstrap_servers",
        "kafka.registry_url",
        "tracking.uri",
    }
    given = ["kafka.bootstrap_servers=k:9093", "kafka.registry_url=https://r", "tracking.uri=x:"]
    assert problems_or_none("production", given, environ={}, directory=tmp_path) is None


@given(
    st.lists(st.text(max_size=40), max_size=5),
    st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5),
)
def test_any_garbage_is_a_report_and_never_another_error(overrides, variables):
    """Whatever is given, loading ends in settings or in ConfigProblems."""
    environ = {f"MESH__{name}": text for name, text in variables.items()}
    report = problems_or_none(None, overrides, environ=environ, directory=Path("/nonexistent"))
    assert report is None or report.problems


def test_instances_are_workers_of_one_group(tmp_path):
    """Three of a worker: named, grouped and seeded apart; who needs it needs all of them."""
    profile = tmp_path / "many.toml"
    profile.write_text(
        '[workers.td3]\nworker = "a:B"\ninstances = 3\nsettings = { seed = 7, x = 1 }\n'
        '[workers.judge]\nworker = "a:C"\ndepends_on = ["td3"]\n'
    )
    *td3, last = load_settings(profile, environ={}, directory=tmp_path).workers
    assert [spec.name for spec in td3] == ["td3-0", "td3-1", "td3-2"]
    assert {spec.group for spec in td3} == {"td3"}
    assert [spec.settings for spec in td3] == [{"seed": 7 + n, "x": 1} for n in range(3)]
    assert last.depends_on == ("td3-0", "td3-1", "td3-2")
    assert last.group == ""


def test_trainers_have_names_that_records_can_hold():
    """Names that would be one name when a record cuts them are refused; so is a name twice."""
    names = ["conservative-learner-0", "conservative-learner-1"]
    found = problems_of(None, [f"feeder.trainers={names}".replace("'", '"')])
    assert set(found) == {"feeder.trainers.0", "feeder.trainers.1"}
    assert "at most 16 characters" in found["feeder.trainers.0"].remedy
    longest = "x" * EXPERIENCE_DTYPE["policy_trainer"].itemsize
    assert (
        problems_or_none(
            None, [f'feeder.trainers=["{longest}"]'], environ={}, directory=Path("/nonexistent")
        )
        is None
    )
    assert problems_of(None, [f'feeder.trainers=["{longest}x"]'])
    assert (
        "a is there twice"
        in problems_of(None, ['feeder.trainers=["a", "a"]'])["feeder.trainers"].reason
    )
