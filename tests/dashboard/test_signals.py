"""The words about signals are complete: every signal that a probe measures by layer has its own, and knows what measures it."""

from foreshock.dashboard.missing import PROBE_OF, not_measured
from foreshock.dashboard.pictures import PICTURES, Panel, pictures
from foreshock.dashboard.sections.heads import COLUMNS
from foreshock.dashboard.signals import CATALOGUE, DISTRIBUTIONS, PRESETS, Trouble
from foreshock.probes.registry import PRESETS as ORDER
from foreshock.probes.registry import known_probes

OF_THE_WHOLE_RUN = {"rank.checksum", "rank.loss", "rank.gradient_norm"}
LOGGED_EVERY_STEP = {"learning_rate"}


def test_every_signal_measured_by_layer_has_words_of_its_own() -> None:
    measured = {signal for probe in known_probes().values() for signal in probe.signals}
    assert set(CATALOGUE) == measured - OF_THE_WHOLE_RUN - DISTRIBUTIONS
    assert measured >= DISTRIBUTIONS
    for info in CATALOGUE.values():
        assert info.title
        assert info.recognise.endswith(".")
        assert info.name in known_probes()[info.probe].signals
    titles = [info.title for info in CATALOGUE.values()]
    assert len(set(titles)) == len(titles), "two signals would be told apart by nothing in the lists"


def test_presets_are_those_of_the_probes() -> None:
    smallest = {
        name: next(preset for preset in ORDER if preset in probe.presets) for name, probe in known_probes().items() if probe.presets
    }
    assert smallest == PRESETS
    assert set(PROBE_OF) == DISTRIBUTIONS
    assert all(signal in known_probes()[probe].signals for signal, probe in PROBE_OF.items())
    assert 'probes="full"' in not_measured("rounding.delta_bias")
    assert "rounding_bias" in not_measured("rounding.delta_bias")
    assert 'probes="default"' in not_measured("adam.second_moment_lag")
    assert "Every preset" in not_measured("weight.spectral_norm")
    assert "by itself" in not_measured("rank.checksum")


def test_pictures_draw_what_is_measured() -> None:
    known = set(CATALOGUE) | OF_THE_WHOLE_RUN | LOGGED_EVERY_STEP
    assert {signal for picture in PICTURES if not picture.logs for signal in picture.signals} <= known
    assert set(COLUMNS) <= known
    names = [picture.name for picture in PICTURES]
    assert len(set(names)) == len(names)
    assert [picture.panel for picture in PICTURES] == sorted((picture.panel for picture in PICTURES), key=list(Panel).index)
    assert all(picture.recognise.endswith(".") for picture in PICTURES)
    assert not pictures(Panel.MONITOR)


def test_what_is_worrying() -> None:
    order = {trouble: max((-3.0, 1.0, 2.0), key=trouble.order) for trouble in Trouble}
    assert order == {Trouble.HIGH: 2.0, Trouble.LOW: -3.0, Trouble.AWAY: -3.0}
