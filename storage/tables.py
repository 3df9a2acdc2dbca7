"""The schema: sixteen tables, as SQLAlchemy Core sees them. ``migrations/`` builds the same; a test holds the two together.

Why it looks like this:

- *Integers inside, names at the edge.* Runs and series have a small number of their own, so that a sample carries no text.
- *Names have no length limit and unique keys do.* A unique key over names is therefore one over their digest, never NULL.
- *A sample is its primary key and a value.* On SQLite ``samples`` is its own index (WITHOUT ROWID): about 30 bytes a point.
- *No foreign key on samples and histograms*: a look-up for each of millions of points. Series numbers are never used twice.
- *A value that is not finite is NULL with a kind*, because no two engines agree on storing nan.
- *A rollup is a row for 10, 100, 1000, ... consecutive points* of a series in a segment, whatever their distance in steps, so that
  dense and sparse series alike cost a ninth more rows, and a chart of any length reads a few thousand.
- *On PostgreSQL* ``samples`` *is partitioned by series number* (see ``partitions``). Numbers rise, so a partition holds runs of one
  time, and is dropped as a whole when the last of them goes.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

VERSION_TABLE = "foreshock_schema"
"""Where Alembic notes the revision; a name of our own, so that a shared database may hold other Alembic projects."""

metadata = MetaData()

_ID = String(191)  # client-made ids; 191 letters of 4 bytes is what every engine can index
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only a column called INTEGER
_TEXT = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
_BLOB = LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
_OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def _run_key(*, primary_key: bool = False) -> Column[int]:
    return Column(
        "run_key", _NUMBER, ForeignKey("runs.key", ondelete="CASCADE"), primary_key=primary_key, nullable=False, autoincrement=False
    )


runs = Table(
    "runs",
    metadata,
    Column("key", _NUMBER, primary_key=True),
    Column("id", _ID, nullable=False, unique=True),
    Column("name", _TEXT, nullable=False),
    Column("project", _TEXT, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("last_step", BigInteger, nullable=False),
    Column("tags", _TEXT, nullable=False),
    Column("meta", _TEXT, nullable=False),
    sqlite_autoincrement=True,
    **_OPTIONS,
)

segments = Table(
    "segments",
    metadata,
    _run_key(primary_key=True),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("start_step", BigInteger, nullable=False),
    Column("started_at", Double, nullable=False),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

series = Table(
    "series",
    metadata,
    Column("id", _NUMBER, primary_key=True),
    _run_key(),
    Column("digest", String(32), nullable=False),
    Column("signal", _TEXT, nullable=False),
    Column("module", _TEXT, nullable=False),
    Column("head", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Index("series_of_run", "run_key", "digest", unique=True),
    sqlite_autoincrement=True,
    **_OPTIONS,
)

batches = Table(
    "batches",
    metadata,
    Column("seq", _NUMBER, primary_key=True),
    Column("id", _ID, nullable=False, unique=True),
    _run_key(),
    Column("segment", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Index("batches_of_run", "run_key", "seq"),
    sqlite_autoincrement=True,
    **_OPTIONS,
)

steps = Table(
    "steps",
    metadata,
    _run_key(primary_key=True),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("time", Double, nullable=False),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

samples = Table(
    "samples",
    metadata,
    Column("series_id", _NUMBER, primary_key=True, autoincrement=False),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("value", Double),
    Column("kind", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (series_id)",
    **_OPTIONS,
)

rollups = Table(
    "rollups",
    metadata,
    Column("series_id", _NUMBER, primary_key=True, autoincrement=False),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("level", SmallInteger, primary_key=True, autoincrement=False),  # the row is about 10**level points
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),  # counted from 0 in each (series, segment, level)
    Column("start_step", BigInteger, nullable=False),  # of its first point; no point of the series lies between two buckets
    Column("end_step", BigInteger, nullable=False),  # of its last point
    Column("count", BigInteger, nullable=False),
    Column("nonfinite", BigInteger, nullable=False),
    Column("minimum", Double),  # this and the rest over finite values; NULL where there are none
    Column("maximum", Double),
    Column("minimum_step", BigInteger),
    Column("maximum_step", BigInteger),
    Column("mean", Double),
    Column("first", Double),  # value at start_step; NULL where it is not finite
    Column("last", Double),  # value at end_step; NULL where it is not finite
    sqlite_with_rowid=False,
    **_OPTIONS,
)

histograms = Table(
    "histograms",
    metadata,
    Column("series_id", _NUMBER, primary_key=True, autoincrement=False),
    Column("segment", Integer, primary_key=True, autoincrement=False),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("packed", _BLOB, nullable=False),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", _ID, primary_key=True),
    _run_key(),
    Column("digest", String(32), nullable=False, unique=True),
    Column("rule", _TEXT, nullable=False),
    Column("module", _TEXT, nullable=False),
    Column("episode", Integer, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("segment", Integer, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("value", Double),
    Column("value_kind", SmallInteger, nullable=False),
    Column("threshold", Double),
    Column("threshold_kind", SmallInteger, nullable=False),
    Column("evidence", _TEXT, nullable=False),
    Column("diagnosis", _TEXT, nullable=False),
    Column("remedy", _TEXT, nullable=False),
    Index("alerts_of_run", "run_key", "first_step"),
    **_OPTIONS,
)

events = Table(
    "events",
    metadata,
    Column("id", _ID, primary_key=True),
    _run_key(),
    Column("segment", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("kind", _TEXT, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("data", _TEXT, nullable=False),
    Index("events_of_run", "run_key", "time"),
    **_OPTIONS,
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("alert_id", _ID, nullable=False),
    Column("channel", _TEXT, nullable=False),
    Column("title", _TEXT, nullable=False),
    Column("body", _TEXT, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", Double, nullable=False),
    Column("error", _TEXT, nullable=False),
    Index("outbox_due", "state", "next_attempt_at"),
    **_OPTIONS,
)

silences = Table(
    "silences",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("alert_id", _ID, nullable=False),
    Column("rule", _TEXT, nullable=False),
    Column("module", _TEXT, nullable=False),
    Column("run_id", _ID, nullable=False),
    Column("project", _TEXT, nullable=False),
    Column("until", Double),
    Column("created_at", Double, nullable=False),
    Column("created_by", _TEXT, nullable=False),
    Column("comment", _TEXT, nullable=False),
    Column("ended_at", Double),
    **_OPTIONS,
)

leases = Table(
    "leases",
    metadata,
    Column("name", _ID, primary_key=True),
    Column("owner", _ID, nullable=False),
    Column("precedence", Integer, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    **_OPTIONS,
)

channels = Table(
    "channels",
    metadata,
    _run_key(primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("channel", _TEXT, nullable=False),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("channel", String(32), nullable=False),  # its digest: a secret need not stand here twice
    Column("sent_at", Double, nullable=False),
    Column("digest", SmallInteger, nullable=False),
    Index("deliveries_of_channel", "channel", "sent_at"),
    **_OPTIONS,
)

rule_versions = Table(
    "rule_versions",
    metadata,
    Column("key", _NUMBER, primary_key=True),  # in the order in which they were saved
    Column("id", _ID, nullable=False, unique=True),
    Column("digest", String(32), nullable=False),  # of rule, project and run
    Column("version", Integer, nullable=False),
    Column("rule", _TEXT, nullable=False),
    Column("project", _TEXT, nullable=False),
    Column("run_id", _ID, nullable=False),
    Column("changes", _TEXT, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", _TEXT, nullable=False),
    Column("comment", _TEXT, nullable=False),
    UniqueConstraint("digest", "version", name="rule_versions_of_scope"),
    sqlite_autoincrement=True,
    **_OPTIONS,
)
