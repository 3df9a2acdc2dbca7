"""``stabilized_attention``: on a warning about attention, the process is switched over to stabilised attention, live.

What it ends is one known cause: the one-signed rounding error of delta = rowsum(dO * O) that low-precision flash attention makes
(arXiv 2510.04212). Nothing of the model or the optimizer is touched; kernels/switch.py says what the switch reaches and what not.
Healthy attention is computed a little more exactly by it and a little slower, so a false alarm costs time and no more.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from typing_extensions import override

from ..kernels.switch import install, installed, uninstall
from ..storage.records import Alert, Severity
from .base import Intervention, Trigger

RULES = (
    "key_shift_bias",
    "attention_logit_growth",
    "attention_logit_saturation",
    "attention_entropy_collapse",
)


class StabilizedAttention(Intervention):
    """Switches to stabilised attention when a rule about attention warns; back when the monitor is closed.

    Args:
        rules: whose alerts set it off; an empty list: any rule's.
        severity: the least.
    """

    name: ClassVar[str] = "stabilized_attention"
    on_every_rank: ClassVar[bool] = True

    def __init__(self, rules: Iterable[str] = RULES, severity: Severity | str = Severity.WARNING) -> None:
        self._trigger = Trigger.of(rules, severity)
        self._ours = self._decided = False

    @override
    def on_alert(self, alert: Alert) -> None:
        if self._decided or installed() or not self._trigger.matches(alert):
            return
        self._decided = True
        self.decide(
            why=f"{alert.rule} gave a {alert.severity} at step {alert.first_step:,}" + (f" in {alert.module}" * bool(alert.module)),
            rule=alert.rule,
            alert=alert.id,
        )

    @override
    def act(self, step: int, facts: Mapping[str, Any]) -> None:
        if installed():
            return
        install()
        self._ours = True
        self.tell(f"Switched to stabilised attention, because {facts['why']}.", rule=facts["rule"], alert=facts["alert"])

    @override
    def called_off(self) -> None:
        self._decided = False

    @override
    def close(self) -> None:
        if self._ours:
            self._ours = False
            uninstall()
