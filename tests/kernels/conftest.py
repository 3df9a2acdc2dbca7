"""One thread: these tensors are small, and the machine is shared. Property tests repeat exactly and have no deadline."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("foreshock", deadline=None, derandomize=True, database=None)
settings.load_profile("foreshock")


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)
