"""Runs small enough to be watched in milliseconds; the fixtures are those of tests/monitor."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from foreshock.storage.records import Alert, AlertState, Severity

_there = Path(__file__).parent.parent / "monitor" / "conftest.py"
_spec = importlib.util.spec_from_file_location("monitor_fixtures", _there)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
_quiet_machine, url, small, fresh_small, eventually = (
    getattr(_fixtures, name) for name in ("_quiet_machine", "url", "small", "fresh_small", "eventually")
)


@pytest.fixture
def alarm() -> Callable[..., Alert]:
    """Make an alert."""

    def make(rule: str = "loss_degradation", severity: Severity = Severity.WARNING, *, module: str = "", step: int = 7) -> Alert:
        return Alert(f"{rule} {module}", "r", rule, module, 0, severity, AlertState.FIRING, 0, step, step, 0.0, 0.0, "")

    return make
