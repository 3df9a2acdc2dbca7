"""The kernels compile for GPUs that are not here, hold what they need in registers, and docs/kernels.md says so."""

import itertools
import os
import re
from pathlib import Path

import pytest
import torch
from foreshock.kernels.flash.ahead import Resources, compiled, launches
from foreshock.kernels.flash.configurations import ARCHITECTURES, SHARED_MEMORY, configuration
from foreshock.kernels.options import FAILING, STABILISED, STANDARD, Variant

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="kernels are interpreted here, not compiled")
DOCUMENT = Path(__file__).parents[3] / "docs" / "kernels.md"
MOST_SPILLED = {"plain": 0, "float32": 16, "with all options": 256}
"""Bytes a thread: of the causal, stabilised kernel, and with a window, a cap, an additive mask and statistics at once."""


def rows() -> list[dict[str, str]]:
    """The table of docs/kernels.md."""
    lines = [
        line.strip("| \n").split(" | ") for line in DOCUMENT.read_text("utf-8").splitlines() if re.match(r"\| (sm_|gfx|GPU)", line)
    ]
    head = lines[0]
    return [dict(zip(head, [*line, ""], strict=False)) for line in lines[1:]]


def test_the_table_lists_what_is_shipped_and_nothing_in_it_spills() -> None:
    listed = set()
    for row in rows():
        itemsize = getattr(torch, row["type"]).itemsize
        cut = configuration(row["kernel"], row["GPU"], itemsize, int(row["head dimension"]))
        assert row["queries x keys"] == f"{cut.block_m} x {cut.block_n}", row
        assert (int(row["warps"]), int(row["stages"])) == (cut.warps, cut.stages), row
        assert int(row["spills, bytes"]) <= MOST_SPILLED["plain" if itemsize == 2 else "float32"], row
        assert int(row["spills with all options"] or 0) <= MOST_SPILLED["with all options"], row
        assert int(row["shared memory, bytes"]) <= SHARED_MEMORY[row["GPU"]], row
        listed.add((row["GPU"], row["kernel"], cut))
    widths = [(2, 64), (2, 128), (2, 256), (4, 256)]
    for architecture, kernel, (itemsize, width) in itertools.product(ARCHITECTURES, ("forward", "keys", "queries"), widths):
        assert (architecture, kernel, configuration(kernel, architecture, itemsize, width)) in listed


@pytest.fixture
def compile_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def built(architecture: str, kernel: str, dtype: torch.dtype, head_dim: int, variant: Variant, **kind: bool) -> Resources:
    launch = next(each for each in launches(architecture, dtype, head_dim, variant, **kind) if each.name == kernel)
    return compiled(launch, architecture)


@pytest.mark.usefixtures("compile_anew")
@pytest.mark.parametrize(
    ("architecture", "kernel", "head_dim"),
    [
        ("sm_80", "keys", 64),
        ("sm_90", "forward", 128),
        ("sm_90", "queries", 64),
        ("sm_100", "forward", 64),
        ("gfx942", "forward", 64),
    ],
)
def test_rows_of_the_table_are_what_compiling_gives(architecture, kernel, head_dim) -> None:
    found = built(architecture, kernel, torch.bfloat16, head_dim, STABILISED)
    wanted = (architecture, "bfloat16", str(head_dim), kernel)
    [row] = [row for row in rows() if (row["GPU"], row["type"], row["head dimension"], row["kernel"]) == wanted]
    assert found == Resources(int(row["registers"]), int(row["spills, bytes"]), int(row["shared memory, bytes"]))


@pytest.mark.usefixtures("compile_anew")
@pytest.mark.parametrize(
    ("architecture", "kernel", "dtype", "head_dim", "variant", "kind"),
    [
        ("sm_90", "forward", torch.float16, 80, FAILING, {"is_causal": False}),
        ("sm_80", "delta", torch.bfloat16, 80, STABILISED, {}),
        ("sm_80", "forward", torch.float32, 32, STANDARD, {}),
        ("sm_90", "forward", torch.bfloat16, 64, STABILISED, {"packed": True}),
        ("gfx942", "keys", torch.float16, 32, STANDARD, {"packed": True, "is_causal": False}),
        ("sm_90", "queries", torch.bfloat16, 64, STABILISED, {"everything": True}),
    ],
)
def test_other_variants_types_and_options_compile_and_hardly_spill(architecture, kernel, dtype, head_dim, variant, kind) -> None:
    found = built(architecture, kernel, dtype, head_dim, variant, **kind)
    assert found.spills <= MOST_SPILLED["with all options" if "everything" in kind else "plain"]
    assert 16 <= found.registers <= 512
    assert found.shared <= SHARED_MEMORY[architecture]


@pytest.mark.usefixtures("compile_anew")
def test_spills_are_seen_where_there_are_some() -> None:
    """The bound above could not fail if spills were not read."""
    from foreshock.kernels.flash.configurations import Configuration

    crammed = Configuration(128, 64, 4, 2)
    launch = next(launches("sm_80", torch.bfloat16, 64, STABILISED, cut=crammed))
    assert compiled(launch, "sm_80").spills > MOST_SPILLED["plain"]
