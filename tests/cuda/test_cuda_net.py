"""The whole net on the CUDA kernels."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mbv1

from .conftest import EMULATED


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def test_fused_net(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """As accurate as torch's own pass over the unfused net in the same dtype, both against float64."""
    torch.manual_seed(0)
    net = mbv1.MobileNetV1(n_classes=10, width_mult=0.25).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        exact = net.double()(x.double())
        net = net.to(dtype=dtype)
        torch_error = (net(x.to(dtype)).double() - exact).abs().max()
        fused = mbv1.MobileNetV1(n_classes=10, width_mult=0.25, fused=True).eval().to(dtype=dtype)
        fused.load_state_dict(net.state_dict())
        # Copies between host and device keep the strides.
        y = fused.cuda()(x.to(dtype).contiguous(memory_format=layout).cuda())
    error = (y.cpu().double() - exact).abs().max()
    assert error <= 2 * torch_error + torch.finfo(dtype).eps * exact.abs().max()


def _launches(run: Callable[[], object]) -> int:
    """Kernels that a call launches."""
    if EMULATED:
        count = ctypes.CDLL(None).cudacpu_launches
        count.restype = ctypes.c_uint64
        before = count()
        run()
        return count() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    events = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return len([name for name in events if not name.startswith(("Memcpy", "Memset"))])


class _Ops(TorchDispatchMode):
    """Records the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layout", "most"), [(torch.channels_last, 17), (torch.contiguous_format, 29)], ids=["nhwc", "nchw"]
)
def test_launches_and_operators_of_the_fused_net(layout: torch.memory_format, most: int) -> None:
    """13 to 17 kernels in NHWC, and no operator of torch that computes, copies or waits for the device.

    In NCHW more blocks run as two kernels, where the cost model prefers that: at most one for each convolution, and
    two for the head.
    """
    torch.manual_seed(0)
    net = mbv1.MobileNetV1(n_classes=10, width_mult=0.25, fused=True).eval().half().cuda()
    x = torch.randn(1, 3, 64, 64).half().contiguous(memory_format=layout).cuda()
    with torch.no_grad():
        net(x)  # folds batch norm
        assert 13 <= _launches(lambda: net(x)) <= most
        with _Ops() as ops:
            net(x)
    assert len(ops.names) == 15 and all(name.startswith("mbv1.") for name in ops.names), ops.names
