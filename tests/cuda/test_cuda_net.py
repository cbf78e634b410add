"""The whole net on the CUDA kernels."""

from __future__ import annotations

import pytest
import torch

import mbv1


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
