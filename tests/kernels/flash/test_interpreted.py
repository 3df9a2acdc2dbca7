"""Runs ``on_device`` in Triton's interpreter: a process of its own, for the variable must stand before triton is imported."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.timeout(900)
def test_everything_on_device_passes_in_the_interpreter(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "on_device",
        "-q",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        f"--junit-xml={report}",
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert int(suite.get("tests", "0")) > 80
    assert suite.get("skipped") == "0"


def test_everything_on_device_is_run_on_a_gpu_too() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine: the kernels were tested in the interpreter only")


def test_the_interpreter_stays_out_of_this_process() -> None:
    import triton

    assert triton.knobs.runtime.interpret == (os.environ.get("TRITON_INTERPRET") == "1")
