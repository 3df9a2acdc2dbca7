"""First schema: runs, segments, series, the ledger of batches, steps, samples, histograms, alerts, events, the outbox.

Revision: 0001. The reasons behind the shapes stand in ``storage/tables.py``; here is what was, frozen.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGBLOB, LONGTEXT

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(191)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
BLOB = sa.LargeBinary().with_variant(LONGBLOB(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}
COUNTED: dict[str, Any] = {"sqlite_autoincrement": True, **OPTIONS}
CLUSTERED: dict[str, Any] = {"sqlite_with_rowid": False, **OPTIONS}


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def _place(name: str, kind: Any = NUMBER) -> sa.Column[Any]:
    """Part of a primary key that we number ourselves."""
    return sa.Column(name, kind, primary_key=True, nullable=False, autoincrement=False)


def _of_run() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["run_key"], ["runs.key"], ondelete="CASCADE")


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "runs",
        _column("key", NUMBER, primary_key=True),
        _column("id", ID, unique=True),
        _column("name", TEXT),
        _column("project", TEXT),
        _column("status", sa.String(16)),
        _column("created_at", sa.Double()),
        _column("heartbeat_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        _column("last_step", sa.BigInteger()),
        _column("tags", TEXT),
        _column("meta", TEXT),
        **COUNTED,
    )
    op.create_table(
        "segments",
        _place("run_key"),
        _place("segment", sa.Integer()),
        _column("start_step", sa.BigInteger()),
        _column("started_at", sa.Double()),
        _of_run(),
        **CLUSTERED,
    )
    op.create_table(
        "series",
        _column("id", NUMBER, primary_key=True),
        _column("run_key", NUMBER),
        _column("digest", sa.String(32)),
        _column("signal", TEXT),
        _column("module", TEXT),
        _column("head", sa.Integer()),
        _column("rank", sa.Integer()),
        _of_run(),
        **COUNTED,
    )
    op.create_index("series_of_run", "series", ["run_key", "digest"], unique=True)
    op.create_table(
        "batches",
        _column("seq", NUMBER, primary_key=True),
        _column("id", ID, unique=True),
        _column("run_key", NUMBER),
        _column("segment", sa.Integer()),
        _column("first_step", sa.BigInteger()),
        _column("last_step", sa.BigInteger()),
        _of_run(),
        **COUNTED,
    )
    op.create_index("batches_of_run", "batches", ["run_key", "seq"])
    op.create_table(
        "steps",
        _place("run_key"),
        _place("segment", sa.Integer()),
        _place("step", sa.BigInteger()),
        _column("time", sa.Double()),
        _of_run(),
        **CLUSTERED,
    )
    op.create_table(
        "samples",
        _place("series_id"),
        _place("segment", sa.Integer()),
        _place("step", sa.BigInteger()),
        sa.Column("value", sa.Double()),
        _column("kind", sa.SmallInteger()),
        **CLUSTERED,
    )
    op.create_table(
        "histograms",
        _place("series_id"),
        _place("segment", sa.Integer()),
        _place("step", sa.BigInteger()),
        _column("packed", BLOB),
        **CLUSTERED,
    )
    _create_alerts()
    op.create_table(
        "events",
        _column("id", ID, primary_key=True),
        _column("run_key", NUMBER),
        _column("segment", sa.Integer()),
        _column("step", sa.BigInteger()),
        _column("time", sa.Double()),
        _column("kind", TEXT),
        _column("message", TEXT),
        _column("data", TEXT),
        _of_run(),
        **OPTIONS,
    )
    op.create_index("events_of_run", "events", ["run_key", "time"])
    op.create_table(
        "outbox",
        _column("id", ID, primary_key=True),
        _column("alert_id", ID),
        _column("channel", TEXT),
        _column("title", TEXT),
        _column("body", TEXT),
        _column("state", sa.String(16)),
        _column("attempts", sa.Integer()),
        _column("next_attempt_at", sa.Double()),
        _column("error", TEXT),
        **OPTIONS,
    )
    op.create_index("outbox_due", "outbox", ["state", "next_attempt_at"])


def _create_alerts() -> None:
    op.create_table(
        "alerts",
        _column("id", ID, primary_key=True),
        _column("run_key", NUMBER),
        _column("digest", sa.String(32), unique=True),
        _column("rule", TEXT),
        _column("module", TEXT),
        _column("episode", sa.Integer()),
        _column("severity", sa.String(16)),
        _column("state", sa.String(16)),
        _column("segment", sa.Integer()),
        _column("first_step", sa.BigInteger()),
        _column("last_step", sa.BigInteger()),
        _column("created_at", sa.Double()),
        _column("updated_at", sa.Double()),
        _column("message", TEXT),
        sa.Column("value", sa.Double()),
        _column("value_kind", sa.SmallInteger()),
        sa.Column("threshold", sa.Double()),
        _column("threshold_kind", sa.SmallInteger()),
        _column("evidence", TEXT),
        _column("diagnosis", TEXT),
        _column("remedy", TEXT),
        _of_run(),
        **OPTIONS,
    )
    op.create_index("alerts_of_run", "alerts", ["run_key", "first_step"])


def downgrade() -> None:
    """Remove all tables."""
    for table in ("outbox", "events", "alerts", "histograms", "samples", "steps", "batches", "series", "segments", "runs"):
        op.drop_table(table)
