"""What was loaded is free again after it was let go: 100 times, in a process of its own.

Names the threads triton-inference-server/server #5841 (load-infer-unload leaks with TorchScript, not with ONNX) and
#6836.
"""

import subprocess
import sys

import pytest

from benchmarks import models
from tests.load_cycles import SIZES

MIB = 1 << 20
GROWTH_MIB = 20
"""Three models' worth: one that stayed behind in each cycle would be 600."""


def saved(kind, folder):
    if kind == "onnx":
        return models.save(models.mlp(SIZES), folder)
    from tests import torch_models

    return torch_models.mlp(SIZES).save(folder, kind)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["onnx", *(pytest.param(kind, marks=pytest.mark.torch) for kind in ("pt2", "ts"))])
def test_after_a_hundred_cycles_memory_is_what_it_was_after_ten(kind, tmp_path):
    path = saved(kind, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.load_cycles", path, "100"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    resident = [int(line) / MIB for line in done.stdout.split()]
    assert len(resident) == 100
    assert resident[99] - resident[9] < GROWTH_MIB
