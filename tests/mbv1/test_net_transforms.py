"""The whole net under torch.func, torch.compile and torch.export."""

import pytest
import torch


def change(net):
    with torch.no_grad():
        net.model[4][3].weight.mul_(1.5)


def test_functional_call(make):
    net = make()
    x = torch.randn(1, 3, 32, 32)
    other = {k: v * 1.1 for k, v in net.state_dict().items() if v.is_floating_point()}
    with torch.no_grad():
        before = net(x)
        changed = torch.func.functional_call(net, other, (x,))
        assert not torch.allclose(changed, before)
        assert torch.equal(net(x), before)
        change(net)
        after = net(x)
        net.fused = False
        torch.testing.assert_close(after, net(x), rtol=1e-3, atol=1e-4)


def test_transforms_with_a_kept_fold(make):
    """A chain knows neither wrappers nor tangents: the ops run, which do."""
    net = make().double().requires_grad_(False)
    x, tangent = torch.randn(2, 2, 1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        net(x[0])
        torch.testing.assert_close(torch.vmap(net)(x), torch.stack([net(one) for one in x]))
        y, slope = torch.func.jvp(net, (x[0],), (tangent[0],))
        net.fused = False
        torch.testing.assert_close((y, slope), torch.func.jvp(net, (x[0],), (tangent[0],)))
        assert slope.any()


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("fused", [False, True])
def test_compile(fused, padding, make):
    net = make(padding=padding)
    net.fused = fused
    x = torch.randn(2, 3, 33, 32)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-3, atol=1e-4)
        change(net)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-3, atol=1e-4)


def test_compile_training(make):
    nets = [make().double().train() for _ in range(2)]
    nets[0].fused = False
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    nets[0](x).sum().backward()
    torch.compile(nets[1], fullgraph=True, backend="aot_eager")(x).sum().backward()
    for ours, theirs in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(nets[1].model[1][1].running_var, nets[0].model[1][1].running_var)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("fused", [False, True])
def test_export(fused, padding, make):
    net = make(padding=padding)
    net.fused = fused
    shapes = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    if not (fused and padding == "same"):
        shapes["x"].update({i: torch.export.Dim(f"size{i}", min=33, max=512) for i in (2, 3)})
    program = torch.export.export(net, (torch.randn(2, 3, 40, 40),), dynamic_shapes=shapes)
    x = torch.randn(5, 3, *((51, 36) if 2 in shapes["x"] else (40, 40)))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-3, atol=1e-4)
    names = {str(node.target) for node in program.graph.nodes}
    assert any("separable_conv2d" in name for name in names) == fused
