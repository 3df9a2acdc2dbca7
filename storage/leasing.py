"""Leases: rights that one process at a time has. Every function works in the caller's transaction.

Expiry is counted by the store's clock, so hosts need not agree on the time. A lease that ends later than its own length from now
was taken before the clock was set back: it counts as over, and is taken again at its holder's next renewal.
"""

from typing import Any

from sqlalchemy import Connection, Row, select, text, update

from .codec import clean
from .records import Lease
from .tables import leases
from .upserts import insert_new

_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch FROM clock_timestamp())",
}
_NOW_ELSEWHERE = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1000000.0"
_ROUNDING = 0.01


def take(connection: Connection, lease: Lease) -> bool:
    """Take or renew the lease; return False while another owner holds it with the same or a higher precedence."""
    name, owner = clean(lease.name), clean(lease.owner)
    wanted = select(leases).where(leases.c.name == name).with_for_update()
    held = connection.execute(wanted).one_or_none()
    if held is None:
        row = {"name": name, "owner": "", "precedence": lease.precedence, "seconds": 0.0, "expires_at": 0.0}
        connection.execute(insert_new(connection.dialect.name, leases, "name"), row)
        held = connection.execute(wanted).one()
    now = clock(connection)
    if held.owner != owner and held.precedence >= lease.precedence and _holds(held, now):
        return False
    fields = {"owner": owner, "precedence": lease.precedence, "seconds": lease.seconds, "expires_at": now + lease.seconds}
    connection.execute(update(leases).where(leases.c.name == name).values(**fields))
    return True


def release(connection: Connection, lease: Lease) -> None:
    """Give the lease back if it is this owner's."""
    mine = (leases.c.name == clean(lease.name)) & (leases.c.owner == clean(lease.owner))
    connection.execute(update(leases).where(mine).values(expires_at=0.0))


def clock(connection: Connection) -> float:
    """Return the store's time, seconds since the epoch."""
    return float(connection.execute(text(f"SELECT {_NOW.get(connection.dialect.name, _NOW_ELSEWHERE)}")).scalar_one())


def _holds(held: Row[Any], now: float) -> bool:
    return bool(now < held.expires_at <= now + held.seconds + _ROUNDING)
