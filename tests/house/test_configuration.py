import os
from pathlib import Path

import pytest
from foreshock.config import ConfigurationError, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and no FORESHOCK_* variables."""
    for name in [name for name in os.environ if name.startswith("FORESHOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_defaults() -> None:
    settings = load_settings()
    assert settings.store == "sqlite:///foreshock.db"
    assert (settings.probes, settings.every, settings.budget, settings.notify, settings.disable) == (
        "default",
        None,
        0.01,
        (),
        False,
    )


def test_arguments_beat_environment_beats_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "foreshock.toml").write_text('store = "sqlite:///file.db"\nproject = "file"\nbudget = 0.5\n')
    monkeypatch.setenv("FORESHOCK_STORE", "sqlite:///environment.db")
    monkeypatch.setenv("FORESHOCK_PROJECT", "environment")
    settings = load_settings(store="sqlite:///argument.db", project=None)
    assert (settings.store, settings.project, settings.budget) == ("sqlite:///argument.db", "environment", 0.5)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("FORESHOCK_DISABLE", "1", "disable", True),
        ("FORESHOCK_EVERY", "25", "every", 25),
        ("FORESHOCK_PROBES", "light", "probes", "light"),
        ("FORESHOCK_PROBES", "spectral, attention", "probes", ("spectral", "attention")),
        ("FORESHOCK_NOTIFY", "json://host/a,b mailto://x", "notify", ("json://host/a,b", "mailto://x")),
        ("FORESHOCK_NOTIFY", '["json://host"]', "notify", ("json://host",)),
        ("FORESHOCK_LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("FORESHOCK_STORE", "", "store", "sqlite:///foreshock.db"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, name: str, text: str, field: str, value: object) -> None:
    monkeypatch.setenv(name, text)
    assert getattr(load_settings(), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('stor = "x"', r"foreshock.toml: unknown key 'stor'; did you mean store\?"),
        ("zzz = 1", r"foreshock.toml: unknown key 'zzz'; allowed: store, .*project, "),
        ("budget = 2", r"foreshock.toml: budget = 2: input should be less than or equal to 1"),
        ("store = x", r"foreshock.toml: not TOML: .*line 1"),
    ],
)
def test_wrong_file(here: Path, text: str, message: str) -> None:
    (here / "foreshock.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_settings()


def test_wrong_values_name_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_BUDGET", "much")
    with pytest.raises(ConfigurationError, match="FORESHOCK_BUDGET: budget = 'much': input should be a valid number"):
        load_settings()
    with pytest.raises(ConfigurationError, match=r"argument: every = 0: .*greater than or equal to 1"):
        load_settings(budget=0.1, every=0)


def test_the_address_of_the_page_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().dashboard_url == ""
    assert load_settings(dashboard_url="http://[::1]:8050/").dashboard_url == "http://[::1]:8050"
    monkeypatch.setenv("FORESHOCK_DASHBOARD_URL", "https://watch.example/foreshock/")
    assert load_settings().dashboard_url == "https://watch.example/foreshock"
    for wrong in (
        "watch.example",
        "ftp://host",
        "https://",
        "http://host:port",
        "http://host/?a=b",
        "http://host/#a",
        "http://h/a b",
    ):
        with pytest.raises(ConfigurationError, match=r"argument: dashboard_url = .*such as https://host/foreshock is needed"):
            load_settings(dashboard_url=wrong)
    with pytest.raises(ConfigurationError, match="stands in every notification"):
        load_settings(dashboard_url="http://ann:secret@host")


def test_a_named_file_must_exist_and_brings_its_folder(here: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        load_settings(config="other.toml")
    (here / "conf").mkdir()
    (here / "conf" / "other.toml").write_text('rules = "mine.toml"\n')
    assert load_settings(config="conf/other.toml").rules == Path("conf/mine.toml")
    (here / "foreshock.toml").write_text("[rules.loss_spike]\nenabled = false\n")
    assert load_settings().rules == Path("foreshock.toml")


def test_misspelt_variables_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_BUGDET", "1")
    monkeypatch.setenv("FORESHOCK_STORE", "sqlite://")
    assert unknown_variables() == {"FORESHOCK_BUGDET": "FORESHOCK_BUDGET"}
