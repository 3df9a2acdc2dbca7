"""How connections to a server are made, kept and bounded.

A pool of five connections (ten more for a moment) is what a dashboard uses; a training process uses one or two. Each is asked for
a sign of life before it is used and replaced after half an hour, because firewalls and servers drop what is idle. On PostgreSQL a
dead peer is noticed within half a minute by TCP keepalives, and ``pg_stat_activity`` shows who is there: ``foreshock ROLE``.
"""

from typing import Any

from sqlalchemy import URL, Connection, Engine, event

from .errors import StoreConfigurationError

CONNECT_TIMEOUT = 5
"""Seconds to wait for a server to answer."""

_POOL: dict[str, Any] = {
    "pool_pre_ping": True,
    "pool_size": 5,
    "max_overflow": 10,
    "pool_timeout": 10.0,  # seconds until a call that finds no free connection counts as unavailable
    "pool_recycle": 1800,
    "pool_use_lifo": True,  # what is not needed goes idle, and is closed by whoever closes idle connections
    "isolation_level": "READ COMMITTED",
}
_POSTGRES: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_PREPARE = "prepare_threshold"


def server_options(url: URL, role: str) -> tuple[URL, dict[str, Any]]:
    """Return the URL and the options to make an engine of it with. What the URL itself says wins.

    Args:
        role: What this process is to the store, for ``pg_stat_activity``: ``monitor``, ``dashboard``, ...

    Raises:
        StoreConfigurationError: ``prepare_threshold`` is neither a number nor ``none``.
    """
    if url.get_backend_name() != "postgresql":
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT}
        if url.get_driver_name() == "pymysql":  # it waits for the server's greeting without end; lifted once connected
            arguments["read_timeout"] = 2 * CONNECT_TIMEOUT
        return url, {**_POOL, "connect_args": _missing(url, arguments)}
    arguments = _missing(url, {**_POSTGRES, "application_name": f"foreshock {role}".strip()})
    if _PREPARE in url.query:
        arguments[_PREPARE] = _threshold(url.query[_PREPARE])
        url = url.difference_update_query([_PREPARE])
    return url, {**_POOL, "connect_args": arguments}


def prepare_reads(engine: Engine, seconds: float | None) -> None:
    """Let no reading transaction's statement take longer than this, if it is given: one huge read must not hang a page.

    On PostgreSQL for each reading transaction, so that it holds behind a pooler too; on MariaDB and MySQL for the connection.
    PostgreSQL is also kept from starting processes and a compiler for a query: it takes series to be as long as they are on
    average, and what it starts costs more than what most queries here take.
    """
    if engine.dialect.name == "postgresql":
        settings = {"jit": "off", "max_parallel_workers_per_gather": "0"}
        if seconds is not None:
            settings["statement_timeout"] = str(round(seconds * 1000))
        words = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())

        def begin(connection: Connection) -> None:
            if not connection.get_execution_options().get("foreshock_write", False):
                connection.exec_driver_sql(f"SELECT {words}")

        event.listen(engine, "begin", begin)
    elif seconds is not None and engine.dialect.name in ("mysql", "mariadb"):

        def connect(connection: Any, _record: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT VERSION()")
                mariadb = "mariadb" in str(cursor.fetchone()[0]).lower()
                limit = f"max_statement_time = {seconds}" if mariadb else f"max_execution_time = {round(seconds * 1000)}"
                cursor.execute(f"SET SESSION {limit}")

        event.listen(engine, "connect", connect)


def _missing(url: URL, arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in url.query}


def _threshold(given: Any) -> int | None:
    if str(given).lower() == "none":
        return None
    if str(given).isdecimal():
        return int(given)
    raise StoreConfigurationError(
        f"{_PREPARE}={given} in a store's address is neither a number nor none; behind a pooler in transaction mode it is none."
    )
