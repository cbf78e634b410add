"""The real extension on the emulated device: launches, errors, limits."""

import ctypes

import pytest
import torch


def test_device_is_there():
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert torch.cuda.get_device_capability() == (8, 0)


def test_copies_and_views():
    x = torch.arange(12.0).reshape(3, 4)
    y = x.to("cuda")
    assert y.is_cuda and torch.equal(y.cpu(), x) and torch.equal(y[1:].cpu(), x[1:])
    assert torch.equal(x.pin_memory().to("cuda", non_blocking=True).cpu(), x)


def test_kernel_with_constant_memory(ops):
    x = torch.randn(1000)
    torch.testing.assert_close(ops.scale(x.cuda(), 2.0, 0.5).cpu(), x * 2 + 0.5)


def test_kernels_of_the_same_name_in_two_sources(ops):
    x = torch.randn(1000)
    torch.testing.assert_close(ops.scale_negatively_twice_shifted(x.cuda(), 2.0).cpu(), 6 - x * 2)


def test_streams_and_events(ops):
    x, stream = torch.randn(100), torch.cuda.Stream()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.stream(stream):
        start.record()
        y = ops.scale(x.cuda(), 3.0, 0.0)
        end.record()
    stream.synchronize()
    assert start.elapsed_time(end) >= 0
    torch.testing.assert_close(y.cpu(), x * 3)


def test_large_dynamic_shared_memory(ops):
    x = torch.randn(3, 20000, dtype=torch.float64).float()
    torch.testing.assert_close(ops.row_sum(x.cuda(), True).cpu(), x.sum(1), rtol=1e-4, atol=1e-3)


def test_shared_memory_limit_is_enforced(ops):
    ops.row_sum(torch.randn(3, 12288).cuda(), False)
    with pytest.raises(RuntimeError, match=r"163840 dynamic bytes.*did not raise the limit"):
        ops.row_sum(torch.randn(3, 40960).cuda(), False)


def test_shared_memory_beyond_the_device(ops):
    with pytest.raises(RuntimeError, match=r"exceed the device's 166912"):
        ops.row_sum(torch.randn(1, 45000).cuda(), True)


@pytest.mark.parametrize("n", [1, 100, 256, 1000, 4096])
def test_out_of_bounds_read_is_reported_at_the_next_synchronisation(ops, n):
    y = ops.shift(torch.zeros(n).cuda())
    place = f"load of 4 bytes.*0 bytes past the end of the {4 * n}-byte.*ops.cu:"
    with pytest.raises(RuntimeError, match=rf"(?s)illegal memory access.*{place}"):
        y.cpu()
    assert torch.equal(torch.ones(2).cuda().cpu(), torch.ones(2))  # the device is usable again


def test_race_in_shared_memory(ops):
    y = ops.racy_reverse(torch.randn(128).cuda())
    assert torch.isnan(y.cpu()).any()  # some threads read before the others wrote


def test_use_after_free(ops):
    runtime, pointer = ctypes.CDLL(None), ctypes.c_void_p()
    assert runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(4000)) == 0
    storage = torch._C._construct_storage_from_data_pointer(pointer.value, torch.device("cuda:0"), 4000)
    stale = torch.empty(0, device="cuda").set_(storage, 0, (1000,), (1,))
    assert runtime.cudaFree(pointer) == 0
    with pytest.raises(RuntimeError, match=r"(?s)illegal memory access.*a freed 4000-byte cudaMalloc block"):
        ops.scale(stale, 1.0, 0.0).cpu()


def test_kernels_of_pytorch_are_named():
    with pytest.raises(RuntimeError, match=r"vectorized_elementwise_kernel.*not among the emulated sources"):
        torch.ones(3).cuda() + 1


def test_empty_tensor_is_an_invalid_launch(ops):
    ops.scale(torch.ones(0).cuda(), 1.0, 0.0)
    # The launch was not checked by the extension; the error waits in cudaGetLastError as on a GPU.
    with pytest.raises(RuntimeError, match=r"invalid configuration"):
        ops.row_sum(torch.randn(2, 8).cuda(), False)
