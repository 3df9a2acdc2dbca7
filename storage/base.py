"""The contract every store keeps. Implementations stay bare; the promises stand here.

Threads: every method may be called from any thread; calls from several threads at once are safe and are serialised per
connection where the engine needs it. A store that crossed a fork must not be used in the child except for ``abandon()``.

Durability: when a writing method returns, what it wrote survives a kill of the process. When it raises, nothing of it is kept.

Idempotence: every record carries a client-made id. Writing the same record again changes nothing, so a caller that
does not know whether a write arrived repeats it.

Ordering: batches of one run become visible in the order in which one writer wrote them; ``changes`` never skips one.

Errors: ``StoreConfigurationError`` for what only the user can mend (URL, driver, schema), its kind ``ReadOnlyStoreError`` for a
write by who may only read, ``StoreUnavailableError`` for what may pass (server away, file locked or read-only, disk full, file
gone), ``UnknownRunError`` for a run that is not there, ``InvalidRecordError`` for a record that no retry will bring in. Nothing
else is raised but what a method names.
"""

from abc import ABC, abstractmethod
from collections.abc import Container, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .records import (
    Alert,
    AlertQuery,
    AlertState,
    Batch,
    Changes,
    Event,
    Lease,
    Notification,
    NotificationState,
    RuleVersion,
    Run,
    RunStatus,
    Segment,
    Series,
    SeriesKey,
    Session,
    Severity,
    Silence,
    Token,
)
from .results import AlertLine, Envelope, News, SeriesData, StepHistogram

if TYPE_CHECKING:
    import pandas as pd


Tally = Literal["state", "severity", "rule", "cause", "run", "run_name", "project"]
"""What alerts are counted by."""


class Listener(ABC):
    """Hears of what is written to a store, by whatever process. One thread waits; any thread may close it."""

    @abstractmethod
    def wait(self, timeout: float) -> News:
        """Return what was written since the last call, as soon as there is any; nothing after ``timeout`` seconds, or once closed.

        What is told was committed before. What is committed after ``Store.listen`` returned is told by one of the next calls,
        sooner or later: as "anything may have changed" where the connection was lost meanwhile, or the engine tells no more.
        More may be told than was written. That the store went away, and that it came back, is told as "anything" too.
        Never raises.
        """

    @abstractmethod
    def close(self) -> None:
        """End a wait that is going on, within a second, and release what listening holds. May be called twice."""


class Store(ABC):
    """Keeps runs, samples, histograms, alerts, events and the notification outbox. See the module's docstring for the promises."""

    url: str
    """The address with any password replaced by ``***``; safe to print."""

    @property
    def notice(self) -> str:
        """What readers should be told about the store just now (its read replica is away); empty when there is nothing."""
        return ""

    # -- runs and segments ---------------------------------------------------------------------------------------

    @abstractmethod
    def create_run(self, run: Run) -> None:
        """Add a run. A run of that id that is already there is left as it is.

        Where the database file was deleted after it was opened, this, and only this, makes a new one: every other method
        raises StoreUnavailableError until then, so that no file ever holds samples of a run it does not know.
        """

    @abstractmethod
    def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus | None = None,
        heartbeat_at: float | None = None,
        ended_at: float | None = None,
        meta: dict[str, Any] | None = None,
    ) -> None:
        """Change the given fields; ``meta`` is merged key by key. A run set to ``running`` again loses its ``ended_at``.

        Raises:
            UnknownRunError: no run has that id.
        """

    @abstractmethod
    def runs(self, *, project: str | None = None, ids: Sequence[str] | None = None, limit: int | None = None) -> list[Run]:
        """Return runs, newest first, with ``last_step`` filled in; narrowed to a project, and to these ids."""

    @abstractmethod
    def run_marks(self) -> dict[str, Hashable]:
        """Return run id -> a mark that differs from the one before once that run's row was changed; newest run first.

        For who keeps a list of thousands of runs up to date: all marks cost about a tenth of ``runs``, which is then asked for
        those that changed.
        """

    @abstractmethod
    def run(self, reference: str) -> Run:
        """Return the run with that id, else the newest with that name, else the one whose id starts with it (8 or more letters).

        Raises:
            UnknownRunError: none matches, or a prefix matches several.
        """

    @abstractmethod
    def delete_run(self, run_id: str) -> None:
        """Delete a run with everything that is of it, and on PostgreSQL partitions that are empty then.

        In many transactions, so that nobody waits long for one: interrupted, it is completed by the same call again. Files that
        interventions wrote are not touched (``captures``).

        Raises:
            UnknownRunError: no run has that id.
            RunIsAliveError: the run calls itself running and its heartbeat is fresh.
        """

    @abstractmethod
    def open_segment(self, run_id: str, start_step: int, started_at: float) -> int:
        """Begin the run's next segment and return its number: 0 for the first, then one more than the highest there is."""

    @abstractmethod
    def add_segment(self, segment: Segment) -> None:
        """Add a segment under its own number; one already there is left as it is. For a store that came back without it.

        Raises:
            UnknownRunError: no such run.
        """

    @abstractmethod
    def segments(self, run_id: str) -> list[Segment]:
        """Return the run's segments in order."""

    # -- samples -------------------------------------------------------------------------------------------------

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write a batch in one transaction. A (segment, step, series) seen before takes the newer value; a batch id seen
        before is skipped whole. Also moves the run's ``last_step`` and heartbeat forward.

        Raises:
            UnknownRunError: the batch's run was never created.
            InvalidRecordError: this batch can never be written.
            StoreUnavailableError: nothing was written; keep the batch and write it again.
        """

    def write_together(self, batches: Sequence[Batch]) -> None:
        """Write batches of one run and segment in one transaction, each under its own id, at about the cost of one.

        For many small ones that waited. At least one; raises as ``write``, and then none of them was written.
        """
        for batch in batches:
            self.write(batch)

    @abstractmethod
    def add_series(self, run_id: str, keys: Sequence[SeriesKey]) -> None:
        """Add series in this order, before there are samples of them; those already there keep their place.

        Raises:
            UnknownRunError: no such run.
        """

    @abstractmethod
    def series(self, run_id: str, *, signal: str | None = None, module: str | None = None) -> list[Series]:
        """Return the run's series in order of first appearance, narrowed to a signal and module (both exact)."""

    @abstractmethod
    def read(
        self,
        series: Sequence[Series],
        *,
        start: int | None = None,
        stop: int | None = None,
        segment: int | None = None,
        max_points: int | None = None,
    ) -> list[SeriesData]:
        """Return the points of each series, in the order given, with ``start <= step < stop``.

        Args:
            max_points: decimate each series to about this many points by MinMaxLTTB over the finite values. Extremes are
                kept, the first and the last point of each segment, and non-finite points: all while they are few, of long
                stretches of them the ends. None reads everything.
                A long series is read by its rollups, so the cost does not follow its length.
        """

    @abstractmethod
    def envelopes(
        self,
        series: Sequence[Series],
        *,
        start: int | None = None,
        stop: int | None = None,
        segment: int | None = None,
        max_points: int = 400,
        means: bool = False,
    ) -> list[Envelope]:
        """Return the extremes of each series, in the order given, over at least ``max_points`` stretches, or over every point.

        What a heatmap of many layers reads: at most about ten times as many rows a series, however long the run. A stretch at
        the edge may reach beyond ``start`` and ``stop``.

        Args:
            means: also each stretch's mean and number of points, which a smoothed line is made of.
        """

    @abstractmethod
    def newest(self, run_ids: Sequence[str], keys: Sequence[SeriesKey]) -> dict[str, dict[SeriesKey, float]]:
        """Return run id -> key -> newest value (of the highest segment's last step), in a few queries for all of them.

        Runs and series that are not there, or have no samples, are left out.
        """

    @abstractmethod
    def sparklines(self, run_ids: Sequence[str], key: SeriesKey, *, points: int = 60) -> dict[str, list[float]]:
        """Return run id -> a picture of one series in at most ``points`` values, in a few queries for all runs.

        In order of (segment, step); of a long series the values are means of stretches, the last one is the newest value. nan
        stands where nothing finite was. Runs without it are left out.
        """

    @abstractmethod
    def changes(self, run_id: str, after: int = 0) -> Changes:
        """Return the ranges written after a cursor (0: from the beginning). Cheap when nothing was written."""

    @abstractmethod
    def step_times(self, run_id: str, *, max_points: int | None = None) -> list[tuple[int, int, float]]:
        """Return (segment, step, wall-clock time), in order."""

    @abstractmethod
    def step_rates(self, run_ids: Sequence[str], *, window: int = 50) -> dict[str, float]:
        """Return run id -> steps per second over about the last ``window`` steps that its newest segment told of.

        Runs that are not there, have fewer than two steps in that segment, or told no times, are left out.
        """

    @abstractmethod
    def histograms(
        self, run_id: str, signal: str, module: str, *, start: int | None = None, stop: int | None = None, limit: int | None = None
    ) -> list[StepHistogram]:
        """Return the histograms of a module in order; with ``limit`` at most that many, evenly spread, first and last kept."""

    @abstractmethod
    def batches(self, run_id: str, *, steps_per_batch: int = 1000, keys: Container[SeriesKey] | None = None) -> Iterator[Batch]:
        """Yield the run's whole history in order of (segment, step), for replay. Batch ids are derived, not the original ones.

        Args:
            keys: read these series only; every step is there all the same. None reads all.
        """

    @abstractmethod
    def frame(self, run: Run | str, signal: str | None = None, module: str | None = None) -> "pd.DataFrame":
        """Return samples as a frame with the columns step, segment, signal, module, head, rank, value, kind.

        ``kind`` is the lower-case name of ``records.Kind``: finite, positive_infinity, negative_infinity, nan.

        Raises:
            UnknownRunError: see ``run``.
        """

    # -- alerts, events, outbox ----------------------------------------------------------------------------------

    @abstractmethod
    def save_alerts(
        self, alerts: Sequence[Alert], notifications: Sequence[Notification] = (), *, lease: Lease | None = None
    ) -> None:
        """Insert or update alerts, and add notifications not yet there, in one transaction.

        What a person decided stays: a stored ``acknowledged`` or ``silenced`` is overwritten by ``resolved`` only, and a resolved
        alert opens again only in a later segment of its run. A new alert that a silence covers is kept as ``silenced``.
        An alert whose (run, rule, module, episode) is there under another id is not doubled.

        Args:
            lease: the caller's right to judge the run; taken or renewed in the same transaction.

        Raises:
            LeaseHeldError: another process judges the run.
        """

    @abstractmethod
    def alerts(
        self,
        run: Run | str | None = None,
        *,
        states: Sequence[AlertState] | None = None,
        limit: int | None = None,
        before: tuple[float, str] | None = None,
    ) -> list[Alert]:
        """Return a run's alerts, oldest first (by segment and first step); those of all runs, newest ``created_at`` first.

        Args:
            before: (``created_at``, id) of an alert, of all runs: those that come after it in that order.
        """

    @abstractmethod
    def alert_counts(self, states: Sequence[AlertState], *, run_ids: Sequence[str] | None = None) -> dict[str, dict[Severity, int]]:
        """Return run id -> severity -> number of alerts in one of these states, without reading the alerts themselves.

        Args:
            run_ids: count those of these runs only. None counts all, which looks at every alert there is.
        """

    @abstractmethod
    def alert(self, reference: str) -> Alert:
        """Return the alert with that id, else the one whose id starts with it (4 or more letters).

        Raises:
            KeyError: none matches, or a prefix matches several; the message says which.
        """

    @abstractmethod
    def find_alerts(self, query: AlertQuery, *, by_run: bool = False, limit: int = 50, offset: int = 0) -> list[AlertLine]:
        """Return some of the alerts that match, without their evidence: what needs a person comes first.

        Open ones before resolved ones; of these the most severe first, those that nobody has decided about before the others, then
        the newest; resolved ones by when that was, the latest first. The cost does not follow the size of what is left out.

        Args:
            by_run: those of a run together; runs in the order of their worst alert, newest first.
        """

    @abstractmethod
    def tally_alerts(self, query: AlertQuery, by: Sequence[Tally], *, limit: int | None = None) -> dict[tuple[str, ...], int]:
        """Return values of ``by`` -> number of alerts that match, most first, without reading the alerts themselves.

        A cause is the likeliest one; ``""`` where there is none.
        """

    @abstractmethod
    def alert_events(self, alert_id: str) -> list[Event]:
        """Return the events that name an alert in their data (decisions, comments, captures) in order of time; none of no alert."""

    @abstractmethod
    def set_alert_state(
        self,
        alert_id: str,
        state: AlertState,
        *,
        at: float,
        by: str = "",
        comment: str = "",
        until: float | None = None,
        seen: AlertState | None = None,
    ) -> None:
        """A person's decision about an alert. Recorded as an event of the run. The state it is in already changes nothing.

        Notifications of an alert that is acknowledged, or resolved by a person, are cancelled where they still wait.

        Args:
            until: for ``silenced``: when it ends; None: when the alert does.
            seen: the state in which the person saw it; None: whatever it is.

        Raises:
            KeyError: no such alert.
            IllegalTransitionError: the alert cannot go there from its state.
            AlertChangedError: it is not in the state ``seen``, looked at in the same transaction.
        """

    @abstractmethod
    def add_silence(self, silence: Silence) -> int:
        """Silence what is open and covered, and what will be; return how many open alerts that was. Known by its id."""

    @abstractmethod
    def end_silence(self, silence_id: str, *, at: float, by: str = "") -> int:
        """End a silence now and return how many alerts fire again. One that has ended stays as it is.

        Raises:
            KeyError: no such silence.
        """

    @abstractmethod
    def silences(self, *, active_at: float | None = None) -> list[Silence]:
        """Return silences, newest first; with ``active_at`` those that hold then."""

    @abstractmethod
    def lift_silences(self, now: float) -> int:
        """Let silenced alerts fire again that no silence covers any more; return how many. Cheap when there are none."""

    @abstractmethod
    def add_event(self, event: Event) -> None:
        """Add an event."""

    @abstractmethod
    def events(self, run_id: str, *, kind: str | None = None) -> list[Event]:
        """Return the run's events in order of time."""

    @abstractmethod
    def due_notifications(self, now: float, *, limit: int = 20) -> list[Notification]:
        """Return waiting notifications whose next attempt is due, those of critical alerts first.

        Those of alerts that are acknowledged or silenced are not due.
        """

    @abstractmethod
    def claim_notifications(self, wanted: Sequence[Notification], *, until: float) -> list[Notification]:
        """Return those of ``wanted`` that are now the caller's to send, their attempts counted up. Others see them at ``until``."""

    @abstractmethod
    def settle_notification(self, notification: Notification) -> None:
        """Store a notification's new state, attempts, next attempt and error, unless somebody else has claimed it since."""

    @abstractmethod
    def retry_notification(self, notification_id: str, *, at: float) -> bool:
        """Let a dead letter wait again, due at ``at``, as if it had never been tried; return False where it is no dead letter."""

    @abstractmethod
    def notifications(
        self, *, states: Sequence[NotificationState] | None = None, alert_id: str | None = None, limit: int | None = None
    ) -> list[Notification]:
        """Return outbox entries, of one alert or of all, those last due first."""

    @abstractmethod
    def note_delivery(self, channel: str, at: float, *, digest: bool) -> None:
        """Note that a message went out, so that all couriers together keep to the rate that a channel bears."""

    @abstractmethod
    def deliveries(self, channel: str, *, since: float) -> list[tuple[float, bool]]:
        """Return (time, whether it was a digest) of a channel's messages at ``since`` or later, in order of time."""

    @abstractmethod
    def set_channels(self, run_id: str, channels: Sequence[str]) -> None:
        """Note where a run's alerts go, for a watchdog that has to speak for it.

        Raises:
            UnknownRunError: no such run.
        """

    @abstractmethod
    def channels(self, run_id: str) -> list[str]:
        """Return where a run's alerts go, as last noted."""

    # -- rules that people changed -------------------------------------------------------------------------------

    @abstractmethod
    def save_rule(self, version: RuleVersion, *, seen: int) -> RuleVersion:
        """Add a version of a rule in its scope and return it as stored, numbered ``seen + 1``. Nothing is overwritten: going back
        is a new version too. Known by its id: the same again returns what is stored.

        Whether a rule of that name takes such changes, the store does not know; who reads them checks them.

        Args:
            seen: number of the version of that rule and scope that the author has looked at; 0 where there was none.

        Raises:
            RuleConflictError: somebody else saved one meanwhile; the message says who, when and what. Nothing was written.
            UnknownRunError: it is about a run that is not there.
            InvalidRecordError: its changes cannot be written as JSON.
        """

    @abstractmethod
    def rule_history(
        self, rule: str | None = None, *, project: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> list[RuleVersion]:
        """Return versions, newest first: of all rules or one, of all scopes, or those of this project and run (both exact)."""

    @abstractmethod
    def rule_overrides(self, *, project: str = "", run_id: str = "") -> list[RuleVersion]:
        """Return the newest version of every rule that was ever changed for all runs, for this project, for this run: in this
        order, in which later ones are laid over earlier ones.

        A row that is no JSON table comes with ``{"unreadable": text}``, which no rule takes; it never makes this fail.
        """

    @abstractmethod
    def rules_revision(self) -> str:
        """Return a text that differs after any rule was changed in any scope. One small query: who follows the rules asks this."""

    # -- leases --------------------------------------------------------------------------------------------------

    @abstractmethod
    def take_lease(self, lease: Lease) -> bool:
        """Take or renew a right; return False while another process has it."""

    @abstractmethod
    def release_lease(self, lease: Lease) -> None:
        """Give a right back, if the caller has it."""

    # -- who may open the dashboard ------------------------------------------------------------------------------

    @abstractmethod
    def add_token(self, token: Token) -> None:
        """Add a token.

        Raises:
            InvalidRecordError: its name is taken, empty or too long.
        """

    @abstractmethod
    def tokens(self) -> list[Token]:
        """Return all tokens, newest first, those that have expired too."""

    @abstractmethod
    def token(self, digest: str) -> Token | None:
        """Return the token with that digest."""

    @abstractmethod
    def remove_token(self, name: str) -> bool:
        """Remove a token and end its sessions; return whether it was there."""

    @abstractmethod
    def add_session(self, session: Session) -> None:
        """Note that a browser signed in. Sessions that are over are forgotten."""

    @abstractmethod
    def session(self, digest: str) -> tuple[Session, Token] | None:
        """Return a session with its token; None where there is none, or its token is gone. It may be over."""

    @abstractmethod
    def end_session(self, digest: str) -> None:
        """End a session, if it is there."""

    # -- the store itself ----------------------------------------------------------------------------------------

    @abstractmethod
    def listen(self) -> Listener:
        """Begin to hear of what is written: every committed batch, run, segment, alert, decision and event.

        On PostgreSQL the writing transaction announces itself and waiting costs the server nothing; elsewhere a look that costs
        microseconds (SQLite file) or a small query a second (MariaDB, MySQL) stands in. One listener a process is enough.
        """

    @abstractmethod
    def check(self, *, write: bool = True) -> None:
        """Prove that the store can be read and, unless told not to, written (a write that is rolled back).

        Raises:
            StoreConfigurationError, StoreUnavailableError: with the reason; ReadOnlyStoreError where it can only be read.
        """

    def interrupt(self) -> None:  # noqa: B027 - not every store has anything to break off
        """Break off what other threads wait for, on a server that does not answer: their calls raise StoreUnavailableError.

        Nothing here waits. A store whose calls all end by themselves, such as a file, need not do anything.
        """

    @abstractmethod
    def close(self) -> None:
        """Release connections. May be called twice; afterwards every method raises StoreUnavailableError."""

    @abstractmethod
    def abandon(self) -> None:
        """Forget inherited connections without touching them: what a forked child calls."""
