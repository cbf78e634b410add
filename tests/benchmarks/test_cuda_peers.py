"""The peers that need a GPU, here on the CPU with stand-ins for their libraries: what they ask for, in which order,
and that the answer is taken from where the library writes it. That the libraries do it, only a GPU can show."""

import ctypes
import importlib
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import mobilenet
from benchmarks.layers import LayerWorkload
from benchmarks.op_suite import make_module
from benchmarks.peers import cudnn_graph, find_peers, tensorrt, torch_compile, torch_cudnn
from benchmarks.shapes import Shape
from benchmarks.workload import Unavailable

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SEPARABLE = Shape("separable", "s", "n", "o", 8, 9, 9, kernel=(3, 3), stride=2, out=16)


def workload(layout="nhwc", dtype=torch.float32):
    return LayerWorkload(make_module(SEPARABLE), (2, 8, 9, 9), dtype, layout, CPU)


@pytest.fixture(autouse=True)
def stream(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))


def test_a_gpu_peer_says_what_it_misses(monkeypatch):
    for module in (cudnn_graph, tensorrt):
        (peer,) = module.PEERS
        assert peer.unavailable(CPU, torch.float16, "nhwc") == "needs a CUDA device"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        expected = f"not installed: {', '.join(peer.needs)} (pip install '.[peers-cuda]')"
        assert peer.unavailable(CUDA, torch.float16, "nhwc") == expected


def test_the_peers_of_every_benchmark():
    names = {"cudnn", "cudnn bench", "cudnn graph", "tensorrt", "compile", "max-autotune", "eager", "mbv1 triton"}
    for benchmark in ("dwconv", "pwconv", "separable", "mobilenet"):
        assert names <= {peer.name for peer in find_peers(benchmark)}


def test_cudnn_flags_are_set_for_the_call_alone(monkeypatch):
    seen = []
    work, flags = workload(), {"benchmark": True, "deterministic": True}
    eager = work.eager(work.folded)
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(
        work, "eager", lambda module: lambda: seen.append((cudnn.benchmark, cudnn.deterministic)) or eager()
    )
    run = torch_cudnn.CudnnFlags("c", "t", flags).prepare(work)
    assert work.error(run()) < 1e-5
    assert seen == [(True, True)] and not cudnn.benchmark and not cudnn.deterministic


def test_a_torch_without_a_flag_is_a_reason():
    peer = torch_cudnn.CudnnFlags("c", "t", {"no_such_flag": 1})
    assert peer.unavailable(CUDA, torch.float16, "nhwc") == "this torch has no torch.backends.cudnn.no_such_flag"
    assert peer.unavailable(CPU, torch.float16, "nhwc") == "needs a CUDA device"


def test_tuning_takes_part_only_when_asked_for():
    tuned = next(peer for peer in torch_compile.PEERS if peer.name == "max-autotune")
    assert "tuning" in tuned.left_out(CUDA, quick=False)


class OfGraph:
    """A tensor of the graph: what it is made by."""

    def __init__(self, *made_by, **sizes):
        self.made_by, self.sizes = made_by, sizes

    def __getattr__(self, name):
        def setter(value):
            self.sizes[name.removeprefix("set_")] = value
            return self

        return setter


class Graph:
    """Computes with torch when executed, only after it was built."""

    def __init__(self, handle, io_data_type, intermediate_data_type, compute_data_type):
        assert (handle, intermediate_data_type, compute_data_type) == ("handle", "float", "float")
        self.built = None

    def tensor(self, name, dim, stride, data_type):
        return OfGraph("given", dim=dim, stride=stride)

    def conv_fprop(self, image, weight, pre_padding, post_padding, stride, dilation):
        assert pre_padding == post_padding
        return OfGraph("conv", image, weight, pre_padding, stride, dilation)

    def bias(self, name, input, bias):
        return OfGraph("bias", input, bias)

    def relu(self, name, input):
        return OfGraph("relu", input)

    def build(self, heuristics):
        self.built = heuristics

    def get_workspace_size(self):
        return 16

    def execute(self, bound, workspace, handle):
        assert self.built == ["A", "FALLBACK"] and workspace.numel() == 16 and handle == "handle"
        for of_graph, tensor in bound.items():
            assert list(tensor.shape) == of_graph.sizes["dim"] and list(tensor.stride()) == of_graph.sizes["stride"]
        (made,) = (t for t in bound if t.made_by[0] != "given")
        bound[made].copy_(self.value(made, bound))

    def value(self, t, bound):
        kind, *rest = t.made_by
        if kind == "given":
            return bound[t]
        if kind == "relu":
            return self.value(rest[0], bound).relu()
        if kind == "bias":
            return self.value(rest[0], bound) + self.value(rest[1], bound)
        x, weight, padding, stride, dilation = self.value(rest[0], bound), self.value(rest[1], bound), *rest[2:]
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1] // weight.shape[1])


class NotSupported(Exception):
    pass


@pytest.fixture
def cudnn(monkeypatch):
    made = SimpleNamespace(
        data_type=SimpleNamespace(HALF="half", BFLOAT16="bfloat16", FLOAT="float"),
        heur_mode=SimpleNamespace(A="A", FALLBACK="FALLBACK"),
        pygraph=Graph,
        create_handle=lambda: "handle",
        streams=[],
        cudnnGraphNotSupportedError=NotSupported,
    )
    made.set_stream = lambda handle, stream: made.streams.append((handle, stream))
    monkeypatch.setitem(sys.modules, "cudnn", made)
    return made


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_cudnn_graphs_compute_a_block(cudnn, layout):
    work = workload(layout)
    run = cudnn_graph.CudnnGraph().prepare(work)
    with torch.inference_mode():
        assert work.error(run()) < 1e-5
    assert cudnn.streams == [("handle", 7)] * 2  # once to make the plans


def test_cudnn_graphs_compute_a_net(cudnn):
    work = mobilenet.Net(mobilenet.make_net(0.25, 64), (2, 3, 64, 64), torch.float32, "nhwc", CPU)
    with torch.no_grad():
        assert work.error(cudnn_graph.CudnnGraph().prepare(work)()) < 1e-4


def test_a_plan_that_cudnn_lacks_is_a_reason(cudnn, monkeypatch):
    def build(self, heuristics):
        raise NotSupported("no engine\nat all")

    monkeypatch.setattr(Graph, "build", build)
    with pytest.raises(Unavailable, match=r"^cuDNN has no plan for it: no engine$"):
        cudnn_graph.CudnnGraph().prepare(workload())


def test_the_frontend_takes_the_graph(request):
    """The real one where it is installed, as far as it goes without a driver: it knows all the operations."""
    installed = importlib.util.find_spec("cudnn") is not None
    cudnn, handle = (
        (importlib.import_module("cudnn"), None) if installed else (request.getfixturevalue("cudnn"), "handle")
    )
    conv = nn.Conv2d(8, 8, 3, 2, 1, groups=8).half()
    x, y = (torch.zeros(1, 8, n, n, dtype=torch.half) for n in (8, 4))
    _, of_x, others = cudnn_graph.describe(cudnn, handle, conv, True, x, y)
    assert of_x not in others
    assert [list(t.shape) for t in others.values()] == [[8, 1, 3, 3], [1, 8, 1, 1], [1, 8, 4, 4]]


class Context:
    """An engine whose kernels are torch's, on the memory that it is given the addresses of."""

    def __init__(self, work):
        self.work, self.addresses, self.streams = work, {}, []

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        self.streams.append(stream)
        assert self.addresses["x"] == self.work.x.data_ptr()
        with torch.no_grad():
            y = self.work.folded(self.work.x)
        ctypes.memmove(self.addresses["y"], y.data_ptr(), y.nbytes)


@pytest.fixture
def trt(monkeypatch):
    """A TensorRT that makes an engine of any model; ``set_up(work)`` says what it computes."""
    log = SimpleNamespace(model=None, cleared=[], tensors=[], plan=b"plan", parses=True)

    def network(flags):
        assert flags == 1 << 5
        sizes = ((2, 8, 9, 9), (2, 16, 5, 5))
        log.tensors = [SimpleNamespace(shape=size, allowed_formats=None) for size in sizes]
        return SimpleNamespace(get_input=lambda i: log.tensors[0], get_output=lambda i: log.tensors[1])

    class Parser:
        def __init__(self, network, logger):
            pass

        def parse(self, model):
            log.model = model
            return log.parses

        def get_error(self, i):
            return SimpleNamespace(desc=lambda: "unknown operator")

    class Logger:
        ERROR = 1

        def __init__(self, level):
            pass

    config = SimpleNamespace(clear_flag=log.cleared.append)
    builder = SimpleNamespace(
        create_network=network,
        create_builder_config=lambda: config,
        build_serialized_network=lambda network, config: log.plan,
    )

    def set_up(work):
        log.context = Context(work)
        engine = SimpleNamespace(create_execution_context=lambda: log.context)
        made = SimpleNamespace(
            Logger=Logger,
            Builder=lambda logger: builder,
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=5),
            OnnxParser=Parser,
            BuilderFlag=SimpleNamespace(TF32="tf32"),
            TensorFormat=SimpleNamespace(HWC8=2),
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        )
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        monkeypatch.setattr(tensorrt, "onnx_model", lambda work, dtype: str(dtype).encode())
        return log

    return set_up


@pytest.mark.parametrize("layout, dtype", [("nchw", torch.float32), ("nhwc", torch.bfloat16)])
def test_tensorrt_computes_a_block(trt, layout, dtype):
    work = workload(layout, dtype)
    log = trt(work)
    run = tensorrt.TensorRt().prepare(work)
    with torch.inference_mode():
        y = run()
    assert work.error(y) <= work.tolerance and y.stride() == work.folded(work.x).stride()
    assert log.model == str(dtype).encode() and log.context.streams == [7] and log.cleared == ["tf32"]
    assert [t.allowed_formats for t in log.tensors] == ([None] * 2 if layout == "nchw" else [1 << 2] * 2)


def test_tensorrts_reasons(trt):
    work = workload("nhwc", torch.float32)
    log = trt(work)
    with pytest.raises(Unavailable, match="only fp16 and bf16, channels in eights"):
        tensorrt.TensorRt().prepare(work)
    work = workload("nchw")
    log.plan = None
    with pytest.raises(Unavailable, match="builds no engine"):
        tensorrt.TensorRt().prepare(work)
    log.parses = False
    with pytest.raises(Unavailable, match="cannot read the model: unknown operator"):
        tensorrt.TensorRt().prepare(work)
