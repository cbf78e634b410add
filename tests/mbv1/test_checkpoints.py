"""Checkpoints of other libraries: the real ones, at random weights, logit by logit."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mbv1 import CheckpointError, MobileNetV1
from mbv1.images import load_net

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def assert_same_logits(ours: MobileNetV1, theirs: torch.Tensor, x: torch.Tensor) -> None:
    """Fused and unfused; the logits must have a size for which a wrong convention would show."""
    assert theirs.std() > 0.1
    with torch.no_grad():
        for fused in (False, True):
            ours.fused = fused
            torch.testing.assert_close(ours(x), theirs, **CLOSE)


def logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(x)


def test_timm(randomize):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    theirs = randomize(timm.create_model("mobilenetv1_100", num_classes=9)).eval()
    x = torch.randn(1, 3, 75, 50)
    ours = MobileNetV1.from_pretrained(theirs.state_dict())
    assert (ours.activation, ours.padding, ours.bn_eps, ours.n_classes) == ("relu6", "symmetric", 1e-5, 9)
    assert_same_logits(ours, logits(theirs, x), x)
    for wrong in ({"activation": "relu"}, {"padding": "same"}, {"bn_eps": 1e-3}):
        net = MobileNetV1.from_pretrained(theirs.state_dict(), **wrong)
        assert not torch.allclose(logits(net, x), logits(theirs, x), **CLOSE), wrong


def test_timm_of_another_width(randomize):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    theirs = randomize(timm.create_model("mobilenetv1_125", num_classes=3, in_chans=1)).eval()
    ours = MobileNetV1.from_pretrained(theirs.state_dict())
    assert (ours.width_mult, ours.ch_in) == (1.25, 1)
    x = torch.randn(1, 1, 64, 64)
    assert_same_logits(ours, logits(theirs, x), x)


def transformers_net(randomize, **config):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    settings = transformers.MobileNetV1Config(**{"depth_multiplier": 0.35, "num_labels": 11, **config})
    return randomize(transformers.MobileNetV1ForImageClassification(settings)).eval()


@pytest.mark.parametrize("size", [(64, 64), (75, 50), (38, 97)])
def test_transformers(size, randomize):
    theirs = transformers_net(randomize)
    x = torch.randn(1, 3, *size)
    expected = logits(theirs, x).logits
    ours = MobileNetV1.from_pretrained(theirs.state_dict())
    assert (ours.activation, ours.padding, ours.bn_eps) == ("relu6", "same", 1e-3)
    assert (ours.width_mult, ours.n_classes) == (0.35, 11)
    assert_same_logits(ours, expected, x)
    for wrong in ({"activation": "relu"}, {"padding": "symmetric"}, {"bn_eps": 1e-5}):
        net = MobileNetV1.from_pretrained(theirs.state_dict(), **wrong)
        assert not torch.allclose(logits(net, x), expected, **CLOSE), wrong


@pytest.mark.parametrize("multiplier", [0.1, 1.4])
def test_transformers_widths(multiplier, randomize):
    theirs = transformers_net(randomize, depth_multiplier=multiplier)
    ours = MobileNetV1.from_pretrained(theirs.state_dict())
    assert ours.width_mult == multiplier
    x = torch.randn(1, 3, 48, 48)
    assert_same_logits(ours, logits(theirs, x).logits, x)


def test_transformers_folder_with_its_config(tmp_path, randomize):
    theirs = transformers_net(randomize, hidden_act="silu", tf_padding=False, layer_norm_eps=0.05)
    theirs.save_pretrained(tmp_path)
    ours = MobileNetV1.from_pretrained(tmp_path)
    assert (ours.activation, ours.padding, ours.bn_eps) == ("silu", "symmetric", 0.05)
    x = torch.randn(1, 3, 64, 64)
    assert_same_logits(ours, logits(theirs, x).logits, x)


def test_transformers_labels(tmp_path, randomize):
    transformers_net(randomize, id2label={i: f"kind {i}" for i in range(11)}).save_pretrained(tmp_path)
    _, card = load_net(tmp_path)
    assert [card.label(i) for i in (0, 10, 11)] == ["kind 0", "kind 10", "class 11"]


def test_a_config_is_read_where_it_is_meant(tmp_path, randomize):
    """A broken ``config.json`` is an error beside the names of transformers, and nobody's business beside others."""
    ours = MobileNetV1(width_mult=0.25, n_classes=3)
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    torch.save(transformers_net(randomize).state_dict(), tmp_path / "theirs.pth")
    for text, expected in (("{", "config.json: cannot be read as JSON"), ("[]", "expected a JSON object, got list")):
        (tmp_path / "config.json").write_text(text)
        MobileNetV1.from_pretrained(tmp_path / "ours.pth")
        with pytest.raises(ValueError, match=expected):
            MobileNetV1.from_pretrained(tmp_path / "theirs.pth")


def keras_net(size, **options):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="keras is not installed")
    theirs = keras.applications.MobileNet(
        **{"input_shape": (*size, 3), "alpha": 0.25, "weights": None, "classes": 6, **options},
        classifier_activation=None,
    )
    generator = np.random.default_rng(0)
    ranges = {
        "gamma": (0.5, 2.5),
        "beta": (-0.5, 1.5),
        "moving_mean": (-0.5, 0.5),
        "moving_variance": (0.05, 1.5),
    }
    for variable in theirs.weights:
        bound = 0.5
        if variable.path.endswith("kernel"):
            height, width, channels, _ = variable.shape
            bound = (1.5 / (height * width * (1 if "_dw_" in variable.path else channels))) ** 0.5
        low, high = ranges.get(variable.path.split("/")[-1], (-bound, bound))
        variable.assign(generator.uniform(low, high, variable.shape))
    return theirs


def keras_logits(theirs, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = theirs(x.permute(0, 2, 3, 1).numpy(), training=False)
    return torch.as_tensor(np.asarray(y.detach().cpu() if isinstance(y, torch.Tensor) else y))


@pytest.mark.parametrize(("size", "alpha"), [((64, 64), 0.25), ((75, 50), 0.25), ((64, 96), 0.1)])
def test_keras(size, alpha, randomize):
    theirs = keras_net(size, alpha=alpha)
    x = torch.randn(2, 3, *size)
    expected = keras_logits(theirs, x)
    arrays = {w.path: w.numpy() for w in theirs.weights}
    ours = MobileNetV1.from_pretrained(arrays)
    assert (ours.width_mult, ours.activation, ours.bn_eps) == (alpha, "relu6", 1e-3)
    assert_same_logits(ours, expected, x)
    wrong = [{"activation": "relu"}, {"padding": "symmetric"}, {"bn_eps": 1e-5}]
    # SAME and keras's own padding differ where a strided layer sees an odd size.
    for options in wrong + [{"padding": "same"}] * (size == (75, 50)):
        net = MobileNetV1.from_pretrained(arrays, **options)
        with torch.no_grad():
            assert not torch.allclose(net(x), expected, **CLOSE), options


@pytest.mark.parametrize("name", ["net.h5", "net.weights.h5"])
def test_keras_files(name, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed")
    theirs = keras_net((64, 64))
    theirs.save_weights(tmp_path / name) if name.endswith(".weights.h5") else theirs.save(tmp_path / name)
    x = torch.randn(2, 3, 64, 64)
    assert_same_logits(MobileNetV1.from_pretrained(tmp_path / name), keras_logits(theirs, x), x)


def test_keras_names_of_older_files():
    theirs = keras_net((64, 64))
    arrays = {}
    for w in theirs.weights:
        layer, entry = w.path.split("/")
        entry = "depthwise_kernel" if "_dw_" in layer and entry == "kernel" else entry
        arrays[f"{layer}/{layer}/{entry}:0"] = w.numpy()
    x = torch.randn(1, 3, 64, 64)
    assert_same_logits(MobileNetV1.from_pretrained(arrays), keras_logits(theirs, x), x)


def tf_slim_arrays(net: MobileNetV1) -> dict[str, np.ndarray]:
    """TF-slim's names and layouts, written down independently of the package."""
    arrays = {}

    def put(scope, conv, bn, kernel, order):
        arrays[f"MobilenetV1/{scope}/{kernel}"] = conv.weight.detach().permute(*order).numpy()
        if conv.bias is not None:
            arrays[f"MobilenetV1/{scope}/biases"] = conv.bias.detach().numpy()
        values = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        for name, value in zip(("gamma", "beta", "moving_mean", "moving_variance"), values, strict=True):
            arrays[f"MobilenetV1/{scope}/BatchNorm/{name}"] = value.detach().numpy()

    for i, block in enumerate(net.model[:-1]):
        if i == 0:
            put("Conv2d_0", block[0], block[1], "weights", (2, 3, 1, 0))
        else:
            put(f"Conv2d_{i}_depthwise", block[0], block[1], "depthwise_weights", (2, 3, 0, 1))
            put(f"Conv2d_{i}_pointwise", block[3], block[4], "weights", (2, 3, 1, 0))
    arrays["MobilenetV1/Logits/Conv2d_1c_1x1/weights"] = net.fc.weight.detach().t()[None, None].numpy()
    arrays["MobilenetV1/Logits/Conv2d_1c_1x1/biases"] = net.fc.bias.detach().numpy()
    return arrays


@pytest.mark.parametrize("conv_bias", [False, True])
@pytest.mark.parametrize("shallow", [False, True])
def test_tf_slim(conv_bias, shallow, tmp_path, randomize):
    options = {"n_classes": 1001, "width_mult": 0.25, "conv_bias": conv_bias, "shallow": shallow}
    net = randomize(MobileNetV1(**options, activation="relu6", padding="same", bn_eps=1e-3)).eval()
    np.savez(tmp_path / "net.npz", **tf_slim_arrays(net))
    ours = MobileNetV1.from_pretrained(tmp_path / "net.npz")
    assert {name: getattr(ours, name) for name in options} == options
    x = torch.randn(1, 3, 64, 64)
    assert_same_logits(ours, logits(net, x), x)


OWN = {
    "plain": {},
    "shallow": {"shallow": True, "n_classes": 1001},
    "dense": {"separable": False, "shallow": True},
    "narrow": {"width_mult": 0.1, "min_depth": 1, "ch_in": 1, "conv_bias": True},
}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar", ".npz", ".safetensors"])
@pytest.mark.parametrize("variant", OWN)
def test_own_files(suffix, variant, tmp_path, randomize):
    options = {"width_mult": 0.25, "n_classes": 4, **OWN[variant]}
    net = randomize(MobileNetV1(**options)).eval()
    state, path = net.state_dict(), tmp_path / f"net{suffix}"
    if suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    elif suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pth.tar":
        # As training scripts write it: wrapped, and from a DataParallel module.
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        # As older versions of torch wrote it: without the counters of batches.
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    ours = MobileNetV1.from_pretrained(str(path))
    assert {name: getattr(ours, name) for name in options} == options
    x = torch.randn(1, net.ch_in, 64, 64)
    assert torch.equal(logits(ours, x), logits(net, x))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_training_scripts_wrap(key, prefix, tmp_path):
    state = MobileNetV1(width_mult=0.25, n_classes=3).state_dict()
    torch.save({"epoch": 3, key: {prefix + k: v for k, v in state.items()}}, tmp_path / "net.pth")
    assert torch.equal(MobileNetV1.from_pretrained(tmp_path / "net.pth").fc.weight, state["fc.weight"])


def test_half_weights_load_into_float32(randomize):
    state = randomize(MobileNetV1(width_mult=0.25)).half().state_dict()
    net = MobileNetV1.from_pretrained(state, fused=True)
    assert net.fc.weight.dtype == torch.float32
    assert torch.equal(net.fc.weight.half(), state["fc.weight"])
    assert MobileNetV1.from_pretrained(state, dtype=torch.float16).fc.weight.dtype == torch.float16


def test_every_misfit_is_listed(randomize):
    arrays = tf_slim_arrays(MobileNetV1(width_mult=0.25, n_classes=3))
    del arrays["MobilenetV1/Conv2d_3_pointwise/BatchNorm/beta"]
    del arrays["MobilenetV1/Conv2d_4_depthwise/depthwise_weights"]
    arrays["MobilenetV1/Conv2d_5_pointwise/weights"] = np.zeros((1, 1, 64, 65), np.float32)
    arrays["MobilenetV1/Conv2d_6_pointwise/BatchNorm/gamma"] = np.zeros((2, 64), np.float32)
    arrays["global_step"] = np.zeros(())
    with pytest.raises(CheckpointError) as caught:
        MobileNetV1.from_pretrained(arrays)
    error = caught.value
    assert error.missing == [
        "MobilenetV1/Conv2d_3_pointwise/BatchNorm/beta",
        "MobilenetV1/Conv2d_4_depthwise/depthwise_weights",
    ]
    assert error.unexpected == ["global_step"]
    assert [m.split()[0] for m in error.misshapen] == [
        "MobilenetV1/Conv2d_5_pointwise/weights",
        "MobilenetV1/Conv2d_6_pointwise/BatchNorm/gamma",
    ]
    for name in (*error.missing, *error.unexpected, *error.misshapen, "(65, 64, 1, 1)"):
        assert name in str(error) or name == "(65, 64, 1, 1)"
    assert "(1, 1, 64, 65) for model.5.3.weight (64, 64, 1, 1)" in str(error)


def test_missing_head_and_stem():
    state = MobileNetV1(width_mult=0.25).state_dict()
    without_head = {k: v for k, v in state.items() if not k.startswith("fc")}
    with pytest.raises(CheckpointError, match=r"missing \(2\): fc.weight, fc.bias"):
        MobileNetV1.from_pretrained(without_head, width_mult=0.25)
    with pytest.raises(CheckpointError, match=r"no MobileNetV1 by its names: expected one of model\.0\.0"):
        MobileNetV1.from_pretrained({"features.0.weight": state["fc.weight"]})
    with pytest.raises(CheckpointError, match="got 0 names: none"):
        MobileNetV1.from_pretrained({})


def test_forced_convention():
    state = MobileNetV1(width_mult=0.25).state_dict()
    with pytest.raises(CheckpointError, match="the timm names do not fit"):
        MobileNetV1.from_pretrained(state, convention="timm")
    with pytest.raises(ValueError, match="convention: expected one of pytorch, timm"):
        MobileNetV1.from_pretrained(state, convention="caffe")


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        MobileNetV1.from_pretrained("google/mobilenet_v1_1.0_224")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin"):
        MobileNetV1.from_pretrained(tmp_path)
    for suffix in (".npz", ".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"not what the suffix says")
        with pytest.raises(ValueError, match=f"cannot be read as {suffix}"):
            MobileNetV1.from_pretrained(path)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a file ending in \.safetensors"):
        MobileNetV1.from_pretrained(tmp_path / "net.onnx")


def test_without_safetensors_only_its_files_are_refused(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "net.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"net\.safetensors: .*needs safetensors \(pip install safetensors\)"):
        MobileNetV1.from_pretrained(tmp_path / "net.safetensors")
    torch.save(MobileNetV1(width_mult=0.25).state_dict(), tmp_path / "net.pth")
    MobileNetV1.from_pretrained(tmp_path / "net.pth")


def test_importing_the_package_imports_no_file_format_and_no_screen():
    code = "import sys, mbv1, mbv1.cli; print({'safetensors', 'h5py', 'rich', 'PIL', 'triton'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_no_code_is_unpickled(tmp_path):
    torch.save(MobileNetV1(width_mult=0.25), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"cannot be read as \.pth"):
        MobileNetV1.from_pretrained(tmp_path / "module.pth")
