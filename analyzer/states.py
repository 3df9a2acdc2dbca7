"""Alerts as plain data, for checkpoints and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..storage.records import Alert, AlertState, Cause, Evidence, SeriesKey, Severity


def alert_to_plain(alert: Alert) -> dict[str, Any]:
    """Return an alert as texts, numbers, lists and dicts."""
    return {**asdict(alert), "severity": alert.severity.value, "state": alert.state.value}


def alert_from_plain(plain: Mapping[str, Any]) -> Alert:
    """Return the alert that ``alert_to_plain`` described."""
    values = {field.name: plain[field.name] for field in fields(Alert)}
    values["severity"], values["state"] = Severity(plain["severity"]), AlertState(plain["state"])
    values["evidence"] = tuple(
        Evidence(SeriesKey(**item["key"]), tuple(item["steps"]), tuple(item["values"]), item["threshold"], item["baseline"])
        for item in plain["evidence"]
    )
    values["diagnosis"] = tuple(Cause(**{**item, "reasons": tuple(item["reasons"])}) for item in plain["diagnosis"])
    return Alert(**values)
