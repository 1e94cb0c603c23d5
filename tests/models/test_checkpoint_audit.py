"""Code planted in a checkpoint, and files that are no checkpoint at all."""

import os
import pickle
import zipfile

import pytest
import torch

from brimful.errors import ModelError
from brimful.models.checkpoint import load_checkpoint, read_network
from brimful.models.signature import SpecOverrides

# Code planted in a network that is otherwise real -----------------------------------------------


def network():
    from ultralytics import YOLO

    return YOLO("yolov8n.yaml").model


class TextPath(str):
    """A path that is text until it is read."""

    def __reduce__(self):
        return os.system, (f"touch '{self}'",)


def plain(layer, **attributes):
    """Set attributes as the pickle would: torch lets a layer's children be layers only."""
    vars(layer).update(attributes)


def plant_class(model, flag):
    plain(
        model.model[0], act=torch.nn.SiLU
    )  # not an instance: called with the image in the forward
    return "torch.nn.modules.activation.SiLU at model.model.0.act"


def plant_function(model, flag):
    plain(model.model[0], act=os.system)
    return "posix.system"


def plant_partial(model, flag):
    import functools

    plain(model.model[0], act=functools.partial(os.system, f"touch '{flag}'"))
    return "functools.partial"


def plant_bound_method(model, flag):
    model.model[0].forward = model.model[0].forward_fuse
    return "builtins.getattr"


def plant_hook_class(model, flag):
    model.model[0]._forward_hooks[0] = torch.nn.Identity
    return "model.model.0._forward_hooks"


def plant_hook_layer(model, flag):
    model.model[2].cv1._forward_pre_hooks[0] = torch.nn.Identity()
    return "model.model.2.cv1._forward_pre_hooks"


def plant_method(model, flag):
    vars(model)["fuse"] = torch.nn.Identity()
    return "model.fuse"


def plant_deep(model, flag):
    value = torch.nn.SiLU
    for _ in range(40):
        value = [value]
    model.model[0].settings = value
    return "torch.nn.modules.activation.SiLU"


def plant_in_namespace(model, flag):
    from types import SimpleNamespace

    model.args = SimpleNamespace(task="detect", inner=SimpleNamespace(code=torch.nn.SiLU))
    return "model.args.inner.code"


def plant_as_key(model, flag):
    model.names = {torch.nn.SiLU: "a"}
    return "torch.nn.modules.activation.SiLU"


def plant_in_hidden_layer(model, flag):
    """Plain attributes go before registered layers, and are in no list of them."""
    hidden = torch.nn.Sequential(torch.nn.Identity())
    hidden[0]._forward_hooks[0] = torch.nn.Identity
    vars(model.model[0])["conv"] = hidden
    return "model.model.0.conv.0._forward_hooks"


def plant_text_path(model, flag):
    model.names = {0: TextPath(flag)}
    return "posix.system"


def plant_own_layer(model, flag):
    model.model[0].act = OwnLayer()
    return f"{__name__}.OwnLayer"


class OwnLayer(torch.nn.Module):
    def forward(self, x):
        return x


PLANTS = [
    plant_class,
    plant_function,
    plant_partial,
    plant_bound_method,
    plant_hook_class,
    plant_hook_layer,
    plant_method,
    plant_deep,
    plant_in_namespace,
    plant_as_key,
    plant_in_hidden_layer,
    plant_text_path,
    plant_own_layer,
]


@pytest.mark.parametrize("plant", PLANTS)
def test_planted_code_is_refused(plant, tmp_path):
    model = network()
    named = plant(model, tmp_path / "flag")
    torch.save({"model": model}, tmp_path / "evil.pt")
    with pytest.raises(ModelError, match="--trust-model") as refusal:
        read_network(tmp_path / "evil.pt", trust=False)
    assert named in str(refusal.value)
    assert not (tmp_path / "flag").exists()


# Other containers -------------------------------------------------------------------------------


def legacy(path, flag):
    torch.save({"model": TextPath(flag)}, path, _use_new_zipfile_serialization=False)


def bare_pickle(path, flag):
    path.write_bytes(pickle.dumps(TextPath(flag)))


def pickle_before_a_zip(path, flag):
    """`zipfile` looks at the end of a file, torch.load at the start."""
    legacy(path, flag)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/data.pkl", b"")
    assert zipfile.is_zipfile(path)


def torchscript(path, flag):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Identity()).save(str(path))


def empty(path, flag):
    path.write_bytes(b"")


def cut(path, flag):
    torch.save({"model": torch.zeros(4)}, path)
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    "write", [legacy, bare_pickle, pickle_before_a_zip, torchscript, empty, cut]
)
@pytest.mark.parametrize("trust", [False, True])
def test_other_containers_are_refused(write, trust, tmp_path):
    write(tmp_path / "model.pt", tmp_path / "flag")
    with pytest.raises(ModelError, match=r"not a PyTorch checkpoint|TorchScript"):
        read_network(tmp_path / "model.pt", trust=trust)
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize(
    "content",
    [{}, {"model": None}, {"model": {"state": 1}}, [1, 2], {"model": torch.nn.Identity()}],
    ids=str,
)
def test_a_checkpoint_of_something_else(content, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="holds no YOLO network"):
        read_network(tmp_path / "model.pt", trust=False)


def test_a_network_that_makes_no_sense(tmp_path):
    model = network()
    model.model = torch.nn.Sequential(model.model[-1])
    torch.save({"model": model}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="cannot be prepared"):
        load_checkpoint(tmp_path / "model.pt", nms=None, overrides=SpecOverrides(), trust=False)
