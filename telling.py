"""Where messages about alerts go and how they are written, as the settings say: couriers are given charts and data here."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .analyzer.channels import ChannelError, with_quiet
from .analyzer.messages import Messages, TemplateError
from .analyzer.quiet import QuietHoursError
from .dashboard.messages import MessageExtras

if TYPE_CHECKING:
    from .analyzer.watchdog import Watchdog
    from .config import Settings
    from .storage import Store


@dataclass(frozen=True)
class Telling:
    """How alerts are told.

    Args:
        channels: Apprise URLs, with quiet hours where they have any.
        messages: how messages are written.
        extras: charts and data that go with them.
    """

    channels: tuple[str, ...] = ()
    messages: Messages = field(default_factory=Messages)
    extras: MessageExtras = field(default_factory=MessageExtras)

    def watchdog(self, store: "Store", **more: Any) -> "Watchdog":
        """Return a watchdog, not yet started, that tells alerts so; ``more`` as ``Watchdog`` takes it."""
        from .analyzer.watchdog import Watchdog

        return Watchdog(store, channels=self.channels, messages=self.messages, extras=self.extras, **more)


def telling(settings: "Settings") -> Telling:
    """Return how alerts are told where these settings hold.

    Raises:
        ConfigurationError: ``notify``, ``quiet_hours`` or ``message`` is not what it has to be.
    """
    from .config import ConfigurationError

    try:
        channels = with_quiet(settings.notify, settings.quiet_hours, critical_waits=settings.quiet_critical)
    except QuietHoursError as error:
        raise ConfigurationError(f"quiet_hours: {error}") from None
    except ChannelError as error:
        raise ConfigurationError(f"notify: {error}") from None
    try:
        return Telling(channels, Messages.of(settings.dashboard_url, settings.message))
    except TemplateError as error:
        raise ConfigurationError(f"message: {error}") from None
