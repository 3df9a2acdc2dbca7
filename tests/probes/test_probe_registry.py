"""Probes are found in their folder, by name or preset."""

import re
import sys

import pytest
from foreshock.probes.attention import AttentionProbe
from foreshock.probes.base import Probe
from foreshock.probes.registry import PRESETS, choose_probes, known_probes
from foreshock.probes.spectral import SpectralProbe


def test_every_probe_is_found_under_its_name_and_in_its_presets() -> None:
    known = known_probes()
    assert {"spectral": SpectralProbe, "attention": AttentionProbe}.items() <= known.items()
    for name, cls in known.items():
        assert name == cls.name
        assert issubclass(cls, Probe)
        assert cls.presets <= set(PRESETS)
        assert cls.__doc__


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset: str) -> None:
    assert {type(probe) for probe in choose_probes(preset)} == {cls for cls in known_probes().values() if preset in cls.presets}


def test_presets_grow() -> None:
    light, default, full = ({type(probe) for probe in choose_probes(preset)} for preset in PRESETS)
    assert {SpectralProbe} <= light <= default <= full
    assert AttentionProbe in default - light


def test_names_objects_and_both() -> None:
    mine = SpectralProbe()
    assert [type(probe) for probe in choose_probes("attention")] == [AttentionProbe]
    chosen = choose_probes(["attention", mine])
    assert isinstance(chosen[0], AttentionProbe)
    assert chosen[1] is mine
    assert choose_probes([]) == []
    assert choose_probes("default")[0] is not choose_probes("default")[0], "every run has probes of its own"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("spectra", f"probes='spectra' is neither a preset (light, default, full) nor a probe ({', '.join(known_probes())})"),
        ("", "probes='' is neither a preset"),
        (["spectra"], f"there is no probe 'spectra'; there are: {', '.join(known_probes())}"),
        (["spectral", 3], f"there is no probe 3; there are: {', '.join(known_probes())}"),
        ([SpectralProbe], "A Probe object may be given too."),
    ],
    ids=["name", "empty name", "name in a list", "number", "class"],
)
def test_what_there_is_not_is_explained(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_probes(given)  # type: ignore[arg-type]


def test_every_probe_says_of_itself_what_the_documents_need() -> None:
    for name, probe in known_probes().items():
        assert probe.signals, name
        assert len(set(probe.signals)) == len(probe.signals), name
        text = sys.modules[probe.__module__].__doc__ or ""
        for section in ("Trouble it reveals", "Formula", "Cost", "Source"):
            assert f"\n\n{section}: " in text, (name, section)
