"""What stores raise; which of them when stands in ``base``."""


class StoreError(Exception):
    """Base of everything a store raises."""


class StoreConfigurationError(StoreError, ValueError):
    """The URL, the driver or the schema is wrong; the message says what was given, what is allowed and what mends it."""


class ReadOnlyStoreError(StoreConfigurationError):
    """This address leads to a role, or to a replica, that may only read. Nothing was written."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached or written just now. Trying again later may work."""


class InvalidRecordError(StoreError, ValueError):
    """The record itself cannot be stored (a step beyond 64 bits, a negative count). Writing it again will not help."""


class UnknownRunError(StoreError, KeyError):
    """No such run, or several match; the message lists what there is."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class LeaseHeldError(StoreError):
    """Another process has the right that this write needs. Nothing was written."""


class RuleConflictError(StoreError):
    """A rule was changed by somebody else since the caller looked; the message says by whom and to what. Nothing was written."""


class RunIsAliveError(StoreError):
    """The run is being written by a living process; what was asked for is only done to runs that ended. Nothing was changed."""


class IllegalTransitionError(StoreError, ValueError):
    """An alert cannot go from the state it is in to the one asked for; the message names those it can go to."""


class AlertChangedError(StoreError):
    """An alert is not in the state any more in which who decides saw it. Nothing was changed."""
