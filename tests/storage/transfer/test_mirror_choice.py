"""A mirror that cannot be as it was asked for is refused by ``watch()``, with what is allowed and what mends it."""

import sys
from typing import Any

import pytest
from foreshock.storage.transfer.mirrors.registry import choose_mirrors
from foreshock.storage.transfer.packages import TransferError


def prepared(given: Any) -> None:
    """Choose and prepare, as ``watch()`` does."""
    for mirror in choose_mirrors([given]):
        mirror.prepare()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tensorbord:x", "there is no mirror 'tensorbord'; allowed: tensorboard, wandb, mlflow, prometheus, otlp"),
        ("tensorboard:x?signal=loss", "has no option 'signal'; allowed: signals, modules"),
        ("prometheus:http", "'http' is no port"),
        ("otlp:localhost", "this is no address; allowed: otlp, or otlp:http://127.0.0.1:4318"),
        ("otlp?interval=soon", "interval='soon' is no number of seconds"),
        ("wandb", "there is no W&B run now. Call wandb.init() before foreshock.watch(), or name the project"),
        ("wandb?rows=many", "allowed are own"),
        ("mlflow", "there is no active MLflow run. Call mlflow.start_run() before foreshock.watch(), or give the tracking URI"),
        (3, "got int"),
    ],
)
def test_what_cannot_be_is_told_at_once(given: Any, words: str) -> None:
    with pytest.raises(TransferError) as refused:
        prepared(given)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("given", "module", "extra"),
    [
        ("tensorboard", "tensorboard", "tensorboard"),
        ("wandb", "wandb", "wandb"),
        ("mlflow", "mlflow", "mlflow"),
        ("prometheus", "prometheus_client", "prometheus"),
        ("otlp", "opentelemetry", "opentelemetry"),
    ],
)
def test_a_missing_package_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, given: str, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TransferError) as refused:
        choose_mirrors(given)
    assert f'mirror={given!r} needs {module}, which is not installed: pip install "foreshock[{extra}]"' in str(refused.value)
