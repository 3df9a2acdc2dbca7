"""What transfers raise beside the store's own errors."""

from ..base import StoreError


class TransferError(StoreError, ValueError):
    """What was to be brought in cannot be read, or what was asked for is not there. The message says what mends it."""


class MissingReaderError(TransferError):
    """A package that reads this format is not installed; the message has the install line."""

    def __init__(self, what: str, extra: str, missing: str | None) -> None:
        super().__init__(f"Reading {what} needs the package {missing or extra!r}, which is not installed: pip install 'foreshock[{extra}]'")
