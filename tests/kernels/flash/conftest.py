"""The kernels run on a GPU, or in Triton's interpreter where TRITON_INTERPRET was set before triton was imported: not here.

So ``on_device`` is collected in two cases only: by the process that ``test_interpreted.py`` starts, and where there is a GPU.
"""

import os

import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETING or torch.cuda.is_available() else ["on_device"]
