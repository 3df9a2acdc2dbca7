"""What the zoo's runs are made of: the registry's lookup, texts, images, how a run ended."""

import pytest
import torch
from foreshock.zoo.images import CLASSES, data_set, glyphs
from foreshock.zoo.scenario import scenario, seeded
from foreshock.zoo.text import batch_of, source_windows, windows


def test_an_unknown_scenario_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"there is no scenario 'nope'; there are: .*healthy"):
        scenario("nope")


def test_text_windows_overlap_by_one_byte_and_end_with_the_text() -> None:
    data = windows(count=32, context=64)
    assert data.shape == (32, 65)
    assert bytes(data[0, :16].tolist()) == b"Call me Ishmael."
    assert torch.equal(data[:-1, -1], data[1:, 0])
    with pytest.raises(ValueError, match="the text has"):
        windows(count=1000, context=64)


def test_the_source_of_python_is_text_and_batches_are_shifted_by_one_byte() -> None:
    data = source_windows(count=32, context=32)
    assert max(data.flatten().tolist()) < 256
    assert b"import" in bytes(source_windows(count=1, context=4096)[0].tolist())
    given, wanted = batch_of(data, 5, seeded(1))
    assert given.shape == wanted.shape == (5, 32)
    assert torch.equal(given[:, 1:], wanted[:, :-1])


def test_glyphs_differ_and_images_are_standardised_and_tell_their_labels() -> None:
    drawn = glyphs()
    assert drawn.shape == (CLASSES, 7, 5)
    assert len(drawn.flatten(1).unique(dim=0)) == CLASSES
    images, labels = data_set()
    assert images.shape == (4096, 1, 12, 12)
    assert abs(images.mean().item()) < 1e-5
    assert images.std().item() == pytest.approx(1.0)
    assert labels.unique().tolist() == list(range(CLASSES))
    # The nearest class mean of one half is right far more often than by chance on the other.
    means = torch.stack([images[:2048][labels[:2048] == label].mean(0).flatten() for label in range(CLASSES)])
    found = torch.cdist(images[2048:].flatten(1), means).argmin(1)
    assert (found == labels[2048:]).float().mean() > 0.3
