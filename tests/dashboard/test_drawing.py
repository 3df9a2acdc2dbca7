"""``foreshock.figure``: which of the page's figures is drawn of what, under which title, and what is said where there is none."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import foreshock
import plotly.graph_objects as go
import pytest
from foreshock.dashboard.drawing import NothingToDrawError
from foreshock.storage.base import Store
from foreshock.storage.errors import StoreConfigurationError, UnknownRunError
from foreshock.storage.records import Batch, SeriesKey, StepRecord, new_id

LAYER = "blocks.1.attn.q"


@pytest.fixture(scope="module")
def kept(simulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = foreshock.open_store(tmp_path_factory.mktemp("drawn") / "runs.db")
    run = simulated.write_failing_run(store, steps=200)
    of_ranks = tuple(SeriesKey("rank.loss", rank=rank) for rank in range(2))
    of_heads = tuple(SeriesKey("attention.max_logit", "blocks.1.attn", head) for head in range(3))
    keys = (*of_ranks, *of_heads, SeriesKey("reward"))
    records = tuple(
        StepRecord(step, float(step), keys, tuple(float(n + step) for n in range(len(keys)))) for step in range(200, 204)
    )
    store.write(Batch(new_id(), run.id, 0, records))
    yield store
    store.close()


def title(figure: go.Figure) -> tuple[str, str]:
    return figure.layout.title.text, figure.layout.title.subtitle.text


def test_the_loss_comes_with_its_alerts(kept: Store) -> None:
    figure = foreshock.figure("gpt2-bf16", store=kept)
    assert isinstance(figure, go.Figure)
    assert title(figure) == ("Loss", "gpt2-bf16")
    assert len(figure.data[1].x) == len(kept.alerts("gpt2-bf16")) > 0
    assert list(figure.data[3].x[:3]) == [0, 1, 2]


def test_a_signal_of_layers_is_a_heatmap_and_of_one_layer_a_line(kept: Store) -> None:
    heatmap = foreshock.figure("gpt2-bf16", "weight.spectral_norm", store=kept)
    assert heatmap.data[0].type == "heatmap"
    assert len(heatmap.data[0].z) == 12
    line = foreshock.figure("gpt2-bf16", "weight.spectral_norm", LAYER, store=kept)
    assert title(line) == ("Spectral norm σ₁", f"gpt2-bf16, {LAYER}")
    assert list(line.data[3].y) == pytest.approx(kept.frame("gpt2-bf16", "weight.spectral_norm", LAYER)["value"].tolist(), rel=1e-4)
    assert line.data[1].x, "the layer's own alerts"
    assert foreshock.figure("gpt2-bf16", module=LAYER, store=kept).data


def test_distributions_ranks_heads_and_metrics(kept: Store) -> None:
    assert foreshock.figure("gpt2-bf16", "spectral_alignment.histogram", LAYER, store=kept).data[0].type == "heatmap"
    assert title(foreshock.figure("gpt2-bf16", "spectral_alignment.histogram", store=kept))[1].startswith("gpt2-bf16, blocks.")
    ranks = foreshock.figure("gpt2-bf16", "rank.loss", store=kept)
    assert [trace.name for trace in ranks.data[3:]] == ["rank 0", "rank 1"]
    heads = foreshock.figure("gpt2-bf16", "attention.max_logit", "blocks.1.attn", store=kept)
    assert [trace.name for trace in heads.data[3:]] == ["head 0", "head 1", "head 2"]
    assert title(heads)[1] == "gpt2-bf16, blocks.1.attn"
    assert list(foreshock.figure("gpt2-bf16", "reward", store=kept).data[3].y) == [205.0, 206.0, 207.0, 208.0]
    assert foreshock.figure("gpt2-bf16", "gradient.norm", store=kept).layout.yaxis.type == "log"


def test_what_is_not_there_is_said_with_what_is_near(kept: Store) -> None:
    with pytest.raises(NothingToDrawError, match=r"has no signal 'gradient.nrom'. Did you mean 'gradient.norm'.*There are \d+: "):
        foreshock.figure("gpt2-bf16", "gradient.nrom", store=kept)
    with pytest.raises(ValueError, match=r"has no layer 'blocks.1.attn.qq'. Did you mean 'blocks.1.attn.q'"):
        foreshock.figure("gpt2-bf16", "weight.spectral_norm", "blocks.1.attn.qq", store=kept)
    with pytest.raises(
        NothingToDrawError, match=r"'loss' is not measured for 'blocks.1.attn.q'.*of the whole run: leave module= out"
    ):
        foreshock.figure("gpt2-bf16", "loss", LAYER, store=kept)
    with pytest.raises(UnknownRunError):
        foreshock.figure("gpt3", store=kept)


def test_a_run_that_has_just_begun_has_an_empty_figure(store: Store, simulated: ModuleType) -> None:
    run = simulated.begin_run(store, "new")
    assert "No loss yet" in foreshock.figure(run, store=store).layout.annotations[0].text
    with pytest.raises(NothingToDrawError, match=r"has no layer 'a'. None was measured so far"):
        foreshock.figure(run, module="a", store=store)


def test_a_store_is_opened_and_closed_and_never_made(kept: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHOCK_STORE", kept.url)
    assert foreshock.figure("gpt2-bf16").data
    with pytest.raises(StoreConfigurationError, match="There is no store at"):
        foreshock.figure("gpt2-bf16", store=tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
