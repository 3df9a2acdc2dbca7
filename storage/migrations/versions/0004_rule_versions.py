"""What people changed of the rules, version by version.

Revision: 0004. A new table only.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0004"
down_revision = "0003"
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
    """Make the table."""
    op.create_table(
        "rule_versions",
        _column("key", NUMBER, primary_key=True),
        _column("id", ID, unique=True),
        _column("digest", sa.String(32)),
        _column("version", sa.Integer()),
        _column("rule", TEXT),
        _column("project", TEXT),
        _column("run_id", ID),
        _column("changes", TEXT),
        _column("created_at", sa.Double()),
        _column("created_by", TEXT),
        _column("comment", TEXT),
        sa.UniqueConstraint("digest", "version", name="rule_versions_of_scope"),
        if_not_exists=True,  # an interrupted upgrade leaves it where making a table cannot be taken back
        sqlite_autoincrement=True,
        **OPTIONS,
    )


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("rule_versions")
