"""Quiet hours by the clock on the wall: held against a twin that walks through the minutes and knows no shortcut."""

import zoneinfo
from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from foreshock.analyzer.channels import Channel, ChannelError, bare, with_quiet
from foreshock.analyzer.quiet import QuietHours, QuietHoursError, Window
from hypothesis import example, given, settings
from hypothesis import strategies as st

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca", "Pacific/Apia"]
"""With clocks that change by an hour, by half an hour, in spring or autumn, around Ramadan, never, and a day that was left out."""
MINUTE, DAY = 60, 86_400


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


# -- the twin ----------------------------------------------------------------------------------------------------------


@cache
def walls(zone: ZoneInfo, first: int) -> list[datetime]:
    """What the clock on the wall shows at each minute of eleven days."""
    return [datetime.fromtimestamp(first + MINUTE * minute, zone).replace(tzinfo=None) for minute in range(11 * 24 * 60)]


def quiet_minutes(quiet: QuietHours, first: int) -> set[int]:
    """From the first minute at which the clock has reached a window's start to the last at which it has not reached its end."""
    shown = walls(quiet.zone, first)
    found: set[int] = set()
    for offset in range(11):
        midnight = datetime.combine(shown[0].date() + timedelta(days=offset), datetime.min.time())
        for window in quiet.windows:
            if midnight.weekday() not in window.days:
                continue
            start = midnight + timedelta(minutes=window.start)
            end = midnight + timedelta(minutes=window.end, days=1 if window.end <= window.start else 0)
            reached = next((minute for minute, wall in enumerate(shown) if wall >= start), len(shown))
            before = max((minute for minute, wall in enumerate(shown) if wall < end), default=-1)
            found.update(range(reached, before + 1))
    return found


@st.composite
def windows(draw: st.DrawFn) -> Window:
    start = draw(st.integers(0, 1439) | st.integers(90, 200))  # clocks change at night
    end = draw((st.integers(1, 1440) | st.integers(90, 200)).filter(lambda minute: minute != start))
    return Window(draw(st.frozensets(st.integers(0, 6), min_size=1)), start, end)


CHANGES = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],
    "Africa/Casablanca": ["2026-02-15", "2026-03-22"],
    "Pacific/Apia": ["2011-12-30", "2020-04-05"],
}


@st.composite
def moments(draw: st.DrawFn) -> tuple[ZoneInfo, int]:
    """A zone and a day, mostly one around which its clocks change."""
    name = draw(st.sampled_from(ZONES))
    day = draw(st.sampled_from(CHANGES.get(name, ["2026-06-01"])))
    zone = ZoneInfo(name)
    return zone, int(datetime.fromisoformat(day).replace(tzinfo=zoneinfo.ZoneInfo("UTC")).timestamp()) - 4 * DAY


@settings(max_examples=60)
@given(moments(), st.lists(windows(), min_size=1, max_size=2), st.integers(3 * 24 * 60, 5 * 24 * 60))
@example((BERLIN, int(at("2026-03-25T00:00"))), [Window(frozenset(range(7)), 1320, 150)], 4 * 24 * 60)
@example((BERLIN, int(at("2026-10-21T00:00"))), [Window(frozenset(range(7)), 1320, 150)], 4 * 24 * 60)
@example((BERLIN, int(at("2026-10-21T00:00"))), [Window(frozenset(range(7)), 1320, 120)], 4 * 24 * 60)
def test_the_end_is_that_of_a_walk_through_the_minutes(where: tuple[ZoneInfo, int], spans: list[Window], minute: int) -> None:
    zone, first = where
    quiet = QuietHours(tuple(spans), zone)
    silent = quiet_minutes(quiet, first)
    until = minute
    while until in silent:
        until += 1
    if until - minute > 5 * 24 * 60:
        return  # the twin sees eleven days only
    moment = first + MINUTE * minute
    assert quiet.end(moment) == (first + MINUTE * until if until > minute else None)
    assert quiet.held(moment) == (minute in silent or minute - 1 in silent)


# -- what people set ---------------------------------------------------------------------------------------------------


def test_a_night_ends_in_the_morning_though_the_clocks_change() -> None:
    night = QuietHours.parse("22:00-07:00 Europe/Berlin")
    for evening, morning, hours in [
        ("2026-06-01T23:00", "2026-06-02T07:00", 8),
        ("2026-03-28T23:00", "2026-03-29T07:00", 7),
        ("2026-10-24T23:00", "2026-10-25T07:00", 9),
    ]:
        assert night.end(at(evening)) == at(morning) == at(evening) + hours * 3600
        assert night.end(at(morning)) is None
        assert night.held(at(morning))
        assert not night.held(at(morning) + 1)
    assert night.end(at("2026-06-01T21:59")) is None
    assert night.words(at("2026-06-02T07:00")) == "Tue 07:00"


def test_days_are_those_on_which_a_window_begins_and_windows_that_touch_are_one() -> None:
    week = QuietHours.parse("Mon-Fri 22:00-07:00, Sat,Sun 00:00-24:00 Europe/Berlin")
    friday_evening, monday = at("2026-11-27T22:30"), at("2026-11-30T00:00")
    assert week.end(friday_evening) == monday
    assert week.end(monday) is None
    assert QuietHours.parse("Fri-Mon 12:00-13:00 UTC").windows[0].days == {4, 5, 6, 0}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no quiet hours; allowed: "),
        ("at night", "such as 22:00-07:00 Europe/Berlin"),
        ("22:00-07:00", "names no time zone"),
        ("22:00-07:00 Berlin", "no time zone 'Berlin' is known here"),
        ("22:00-07:00 ../../etc/passwd", "no time zone"),
        ("22:00-25:00 UTC", "there is no time 25:00; allowed: 00:00 to 24:00"),
        ("22:60-23:00 UTC", "there is no time 22:60"),
        ("07:00-07:00 UTC", "a whole day is 00:00-24:00"),
        ("Xyz 22:00-07:00 UTC", "there is no day 'xyz'; allowed: Mon, "),
        ("00:00-12:00, 12:00-24:00 UTC", "leaves no time for messages"),
    ],
)
def test_what_is_no_quiet_hours_is_refused_with_what_is_allowed(text: str, says: str) -> None:
    with pytest.raises(QuietHoursError) as refused:
        QuietHours.parse(text)
    assert repr(text) in str(refused.value)
    assert says in str(refused.value)


# -- in the URL of a channel -------------------------------------------------------------------------------------------


def test_a_channel_carries_its_quiet_hours_and_apprise_does_not_see_them() -> None:
    (phone, log, own) = with_quiet(
        ["ntfy://topic?format=text", "json://host/log?quiet=", "slack://a/b/c/#ops?quiet=01:00-02:00+UTC&chart=no"],
        "Mon-Fri 22:00-07:00 Europe/Berlin",
        critical_waits=True,
    )
    read = Channel.of(phone)
    assert (read.url, read.critical_waits, read.charts) == ("ntfy://topic?format=text", True, True)
    assert read.quiet == QuietHours.parse("Mon-Fri 22:00-07:00 Europe/Berlin")
    assert Channel.of(log) == Channel("json://host/log")
    assert Channel.of(own) == Channel("slack://a/b/c/#ops", QuietHours.parse("01:00-02:00 UTC"), charts=False)
    assert with_quiet([phone], "01:00-02:00 UTC", critical_waits=False) == (phone,)


@pytest.mark.parametrize("url", ["json://host", "json://host/?", "json://u:p%3Fx@host/a,b?+x=y&&:z", "nonsense"])
def test_a_channel_without_parameters_of_ours_is_left_as_it_is(url: str) -> None:
    assert bare(url) == Channel.of(url).url == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("slack://secret?quiet=night", "slack://...?quiet=: 'night' names no quiet hours"),
        ("json://h?chart=maybe", "allowed are yes and no"),
    ],
)
def test_a_wrong_parameter_is_refused_without_the_secret(url: str, says: str) -> None:
    with pytest.raises(ChannelError) as refused:
        Channel.of(url)
    assert says in str(refused.value)
    assert "secret" not in str(refused.value)
