"""Write the table of registers and spills into docs/kernels.md: ``python docs/kernel_resources.py``.

Needs no GPU, takes many minutes. Every shipped configuration is compiled ahead of time for its architecture. Compiled kernels are
kept in Triton's own cache, so that a second run is quick. A test holds the table against the shipped configurations, and compiles
some of its rows anew.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from foreshock.kernels.flash.ahead import Resources, compiled, launches
from foreshock.kernels.flash.configurations import ARCHITECTURES
from foreshock.kernels.flash.plan import Launch
from foreshock.kernels.options import STABILISED

DOCUMENT = Path(__file__).with_name("kernels.md")
BEGIN, END = "<!-- begin: resources (docs/kernel_resources.py) -->\n", "<!-- end: resources -->"
HEAD = (
    "| GPU | type | head dimension | kernel | queries x keys | warps | stages | registers | spills, bytes | shared memory, bytes "
    "| spills with all options |\n|" + " --- |" * 11 + "\n"
)
SHAPES = ((torch.bfloat16, 64), (torch.bfloat16, 96), (torch.bfloat16, 128), (torch.bfloat16, 256), (torch.float32, 256))


def row(architecture: str, launch: Launch, plain: Resources, full: Resources | None) -> str:
    """Return one line of the table."""
    arguments = launch.arguments
    cells = (
        *(architecture, str(arguments["q"].dtype).removeprefix("torch."), arguments["D"], launch.name),
        *(f"{arguments['BLOCK_M']} x {arguments['BLOCK_N']}", launch.warps, launch.stages),
        *(plain.registers, plain.spills, plain.shared, "" if full is None else full.spills),
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |\n"


def rows() -> Iterator[str]:
    """Compile, and yield the lines."""
    for architecture in ARCHITECTURES:
        for dtype, head_dim in SHAPES:
            both = zip(
                launches(architecture, dtype, head_dim, STABILISED),
                launches(architecture, dtype, head_dim, STABILISED, everything=True),
                strict=True,
            )
            for launch, everything in both:
                if launch.name == "delta":
                    continue  # a sum over rows: it holds next to nothing
                full = compiled(everything, architecture) if head_dim in (64, 128) else None
                yield row(architecture, launch, compiled(launch, architecture), full)


def main() -> None:
    """Make the table anew."""
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    table = HEAD
    for line in rows():
        print(line, end="", file=sys.stderr, flush=True)
        table += line
    DOCUMENT.write_text(before + BEGIN + table + END + after, "utf-8")


if __name__ == "__main__":
    main()
