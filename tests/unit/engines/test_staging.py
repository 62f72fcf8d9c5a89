"""The way of a batch to a device and back.

On the CPU it is the same code, with streams and events that do nothing; where a GPU is, the tests run on it too.
"""

import threading

import numpy as np
import pytest

pytestmark = pytest.mark.torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU: the staging of batches ran on its CPU twin")
    return torch.device(request.param)


@pytest.fixture(params=[False, True], ids=["launched", "replayed"])
def graphs(request):
    return request.param


@pytest.fixture
def program(tmp_path, device):
    from streamserve.engines.torch_program import load_program
    from tests import torch_models

    model = torch_models.mlp()
    return load_program(str(model.save(tmp_path, "pt2")), model.signature, device, compiled=False)


@pytest.fixture
def staging(program, device, graphs):
    from streamserve.engines.staging import Staging

    return Staging(program, device, graphs=graphs)


@pytest.fixture
def expected(program, device):
    """What the program says without any staging."""
    import torch

    return lambda x: program({"x": torch.from_numpy(x).to(device)})[0].cpu().numpy()


def batches(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(rows, 16)).astype(np.float32) for rows in random.choice([1, 2, 8, 32], count)]


def test_batches_of_changing_sizes_come_back_as_if_they_had_gone_straight(staging, expected):
    for x in batches(40):
        np.testing.assert_allclose(staging.run({"x": x})[0], expected(x), rtol=0, atol=1e-6)


def test_what_was_given_back_is_not_overwritten_by_the_next_batch(staging, expected):
    inputs = batches(12)
    outputs = [staging.run({"x": x})[0] for x in inputs]
    for x, output in zip(inputs, outputs, strict=True):
        np.testing.assert_allclose(output, expected(x), rtol=0, atol=1e-6)


def test_three_threads_do_not_mix_their_batches(staging, expected):
    wrong = []

    def work(seed):
        wrong.extend(
            seed for x in batches(60, seed) if not np.allclose(staging.run({"x": x})[0], expected(x), rtol=0, atol=1e-6)
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_failing_batch_leaves_its_lane_fit(program, device, graphs):
    from streamserve.engines.staging import Staging

    failing = True

    def sometimes(tensors):
        if failing:
            raise RuntimeError("CUDA out of memory")
        return program(tensors)

    staging = Staging(sometimes, device, graphs=graphs)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            staging.run({"x": np.zeros((2, 16), np.float32)})
    failing = False
    assert staging.run({"x": np.zeros((2, 16), np.float32)})[0].shape == (2, 1)
