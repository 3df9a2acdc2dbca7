"""Settings: arguments > ``FORESHOCK_*`` environment > ``foreshock.toml`` > defaults.

Import this module inside functions: pydantic takes a tenth of a second that ``foreshock --help`` does not have.
"""

import difflib
import json
import os
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

PREFIX = "FORESHOCK_"
CONFIG_FILE = "foreshock.toml"
ENVIRONMENT_ONLY = ("home", "token")
"""``FORESHOCK_HOME``, the folder for what belongs to this machine rather than to a store (see ``storage.trouble``), and
``FORESHOCK_TOKEN``, what commands sign in with at a dashboard's API."""


class ConfigurationError(ValueError):
    """A setting is wrong; the message says where it stands, what was given and what is allowed."""


def _listed(value: object) -> object:
    """Read a list out of the environment: JSON, or items between blanks (Apprise URLs may hold commas)."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else value.split()


def _preset_or_names(value: object) -> object:
    """Read ``FORESHOCK_PROBES``: one word is a preset, several are names of probes."""
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    return words[0] if isinstance(words, list) and isinstance(value, str) and len(words) == 1 else words


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _page_address(value: str) -> str:
    """Check the address of a page that others will open; return it without the last slash."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets without an end
        good = False
    if not good or parts.query or parts.fragment or any(letter.isspace() or not letter.isprintable() for letter in value):
        raise ValueError("an address such as https://host/foreshock is needed: http or https, a host, no query and no blanks")
    if parts.username is not None:
        raise ValueError("it stands in every notification, so it must hold no user and no password")
    return value.rstrip("/")


class Settings(BaseSettings):
    """Everything that can be set. The names are those of the keys in ``foreshock.toml``; the environment adds ``FORESHOCK_``."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        toml_file=CONFIG_FILE,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    store: str = Field(default="sqlite:///foreshock.db", min_length=1)
    """SQLAlchemy URL of the store."""
    project: str = ""
    """Project that new runs belong to."""
    spool: str = "."
    """Folder that takes what the store cannot take while it is away (docs/durability.md); empty or ``off``: none."""
    spool_limit: ByteSize = Field(default=ByteSize(2**30), ge=64 * 1024)
    """At most how large a run's spool may grow: bytes, or ``500MB``, ``2GiB``."""
    read_store: str = ""
    """URL of a read replica of a server's store, which the dashboard reads samples from."""
    probes: Annotated[str | tuple[str, ...], NoDecode, BeforeValidator(_preset_or_names)] = "default"
    """Preset of probes, or their names."""
    every: int | None = Field(default=None, ge=1)
    """Fixed number of steps from one sample to the next; without it the governor decides."""
    budget: float = Field(default=0.01, gt=0, le=1)
    """Share of step time that probes may cost."""
    rules: Annotated[Path, AfterValidator(Path.expanduser)] | dict[str, Any] | None = None
    """TOML file whose rules override the built-in ones, or such tables; in ``foreshock.toml`` also ``[rules.NAME]``."""
    compiled: Literal["taps", "eager", "weights"] = "taps"
    """How models in ``torch.compile`` are seen: layer inputs through taps in their graphs; everything, on sampled steps that run
    without compiling, in the whole process; or weights, loss and norms only."""
    notify: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Apprise URLs that alerts are sent to."""
    quiet_hours: str = ""
    """When what is not critical waits, such as ``22:00-07:00 Europe/Berlin`` (docs/notifications.md)."""
    quiet_critical: bool = False
    """Whether critical alerts wait for the end of quiet hours too."""
    message: dict[str, str] = Field(default_factory=dict)
    """Templates of what messages say: ``title``, ``body`` (docs/notifications.md)."""
    dashboard_url: Annotated[str, AfterValidator(_page_address)] = ""
    """Address of the dashboard as people reach it, such as ``https://host/foreshock``; notifications link to alerts there."""
    interventions: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Names of what may be done to a run (docs/interventions.md)."""
    mirror: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Trackers that are told live what the store is given (docs/exporting.md)."""
    retention: dict[str, Any] = Field(default_factory=dict)
    """What is kept for how long, by class of signals; ``foreshock db prune`` carries it out (docs/upkeep.md). By default, all."""
    disable: bool = False
    """Make ``watch()`` do nothing."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "WARNING"
    """Level of the logger ``foreshock``."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Name the sources, the strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config: str | Path | None = None, **overrides: Any) -> Settings:
    """Return the settings that hold here and now.

    Args:
        config: a file to read instead of ``./foreshock.toml``. Relative paths in a file are relative to its folder.
        overrides: the strongest source; those that are None or ``()`` were not given.

    Raises:
        ConfigurationError: a key or value is not allowed, or the file cannot be read.
    """
    file = Path(CONFIG_FILE if config is None else config)
    if config is not None and not file.is_file():
        raise ConfigurationError(f"{file}: no such file; config= names a TOML file like {CONFIG_FILE}")

    class Chosen(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    given = {key: value for key, value in overrides.items() if value is not None and value != ()}
    try:
        settings = Chosen(**given)
    except TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: not TOML: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(problem, given, file) for problem in error.errors())) from None
    return (
        settings
        if _source("rules", given, file) != str(file)
        else settings.model_copy(update={"rules": _placed(settings.rules, file)})
    )


def unknown_variables() -> dict[str, str]:
    """Return the ``FORESHOCK_*`` variables that mean nothing, each with the nearest one that does (or ``''``)."""
    keys = {name: name.removeprefix(PREFIX).lower() for name in os.environ if name.startswith(PREFIX)}
    unknown = {name: key for name, key in keys.items() if key not in Settings.model_fields and key not in ENVIRONMENT_ONLY}
    return {name: PREFIX + near.upper() if (near := _nearest(key)) else "" for name, key in unknown.items()}


def _placed(rules: Path | dict[str, Any] | None, file: Path) -> Path | dict[str, Any] | None:
    """Resolve what a settings file says about rules: tables in ``foreshock.toml`` are left to whoever reads rules, by line."""
    if isinstance(rules, Path):
        return file.parent / rules
    return file if rules is not None and file.name == CONFIG_FILE else rules


def _nearest(key: str) -> str:
    return next(iter(difflib.get_close_matches(key, Settings.model_fields, n=1)), "")


def _source(key: str, given: dict[str, Any], file: Path) -> str:
    """Say which source the value of ``key`` came from."""
    if key in given:
        return "argument"
    return f"{PREFIX}{key.upper()}" if os.environ.get(PREFIX + key.upper()) else str(file)


def _explain(problem: Any, given: dict[str, Any], file: Path) -> str:
    """Put one of pydantic's errors into a line: source, key, what was given, what is allowed."""
    key = str(problem["loc"][0])
    source = _source(key, given, file)
    if problem["type"] == "extra_forbidden":
        near = _nearest(key)
        hint = f"did you mean {near}?" if near else f"allowed: {', '.join(Settings.model_fields)}"
        return f"{source}: unknown key {key!r}; {hint}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{source}: {key} = {problem['input']!r}: {message}"
