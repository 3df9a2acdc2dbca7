"""The life of an alert: silences, leases, the channels of a run, the log of deliveries.

Revision: 0002. New tables only. An alert that was silenced before, for good as it was then, gets the silence that says so.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ID = sa.String(191)
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def upgrade() -> None:
    """Make the tables; keep silenced what was silenced."""
    op.create_table(
        "silences",
        _column("id", ID, primary_key=True),
        _column("alert_id", ID),
        _column("rule", TEXT),
        _column("module", TEXT),
        _column("run_id", ID),
        _column("project", TEXT),
        sa.Column("until", sa.Double()),
        _column("created_at", sa.Double()),
        _column("created_by", TEXT),
        _column("comment", TEXT),
        sa.Column("ended_at", sa.Double()),
        **OPTIONS,
    )
    op.execute(
        "INSERT INTO silences (id, alert_id, rule, module, run_id, project, created_at, created_by, comment) "
        "SELECT id, id, '', '', '', '', updated_at, '', '' FROM alerts WHERE state = 'silenced'"
    )
    op.create_table(
        "leases",
        _column("name", ID, primary_key=True),
        _column("owner", ID),
        _column("precedence", sa.Integer()),
        _column("seconds", sa.Double()),
        _column("expires_at", sa.Double()),
        **OPTIONS,
    )
    op.create_table(
        "channels",
        sa.Column("run_key", NUMBER, primary_key=True, nullable=False, autoincrement=False),
        sa.Column("place", sa.Integer(), primary_key=True, nullable=False, autoincrement=False),
        _column("channel", TEXT),
        sa.ForeignKeyConstraint(["run_key"], ["runs.key"], ondelete="CASCADE"),
        sqlite_with_rowid=False,
        **OPTIONS,
    )
    op.create_table(
        "deliveries",
        _column("id", ID, primary_key=True),
        _column("channel", sa.String(32)),
        _column("sent_at", sa.Double()),
        _column("digest", sa.SmallInteger()),
        **OPTIONS,
    )
    op.create_index("deliveries_of_channel", "deliveries", ["channel", "sent_at"])


def downgrade() -> None:
    """Remove the tables."""
    for table in ("deliveries", "channels", "leases", "silences"):
        op.drop_table(table)
