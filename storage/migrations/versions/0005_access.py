"""Who may open the dashboard: tokens and sessions, by their digests.

Revision: 0005. New tables only.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ID = sa.String(191)
DIGEST = sa.String(64)
TEXT = sa.Text().with_variant(LONGTEXT(), "mysql", "mariadb")
OPTIONS: dict[str, Any] = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("charset", "utf8mb4"), ("collate", "utf8mb4_bin"), ("engine", "InnoDB"))
}


def _column(name: str, kind: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, **options)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "access_tokens",
        _column("digest", DIGEST, primary_key=True),
        _column("name", ID, unique=True),
        _column("may_write", sa.SmallInteger()),
        _column("created_at", sa.Double()),
        _column("created_by", TEXT),
        sa.Column("expires_at", sa.Double()),
        **OPTIONS,
    )
    op.create_table(
        "access_sessions",
        _column("digest", DIGEST, primary_key=True),
        _column("token_digest", DIGEST),
        _column("created_at", sa.Double()),
        _column("expires_at", sa.Double()),
        **OPTIONS,
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in ("access_sessions", "access_tokens"):
        op.drop_table(table)
