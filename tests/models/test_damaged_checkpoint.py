"""Checkpoints whose numbers or modules make no sense: an error before torch acts on them."""

import pytest
import torch

from brimful.errors import ModelError
from brimful.models.checkpoint import read_network


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (1000,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (4, 1)),
        (0, (10**6, 10**6), (0, 0)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (3, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (2, 2), (2,)),
    ],
)
def test_a_tensor_larger_than_its_storage(offset, size, stride):
    """torch grows the storage of such a tensor, and what it grows by is not cleared."""
    from brimful.models.rebuild import CALLS

    numbers = torch.tensor([1.0, 2.0, 3.0, 4.0]).untyped_storage()
    storage = torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True)
    rebuild = CALLS["torch._utils", "_rebuild_tensor_v2"]
    with pytest.raises(ModelError, match=r"is damaged: a tensor of .* its storage of 4"):
        rebuild(storage, offset, size, stride)
    assert rebuild(storage, 1, (3,), (1,)).tolist() == [2, 3, 4]
    assert rebuild(storage, 0, (2, 2), (1, 2)).tolist() == [[1, 3], [2, 4]]
    assert rebuild(storage, 4, (0, 7), (7, 1)).shape == (0, 7)
    assert rebuild(storage, 3, (), ()).item() == 4


def nested(depth, width):
    """Return a network of few modules with width**depth paths through it."""
    module = torch.nn.Identity()
    for _ in range(depth):
        module = torch.nn.Sequential(*[module] * width)
    root = torch.nn.Sequential()
    root.model = torch.nn.Sequential(module)
    return root


@pytest.mark.parametrize("trust", [False, True])
def test_a_graph_of_too_many_paths(trust, tmp_path):
    """40 modules that each contain the next one twice: converting them would take centuries."""
    torch.save({"model": nested(40, 2)}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"model\.pt: .* visits more than 100000 modules"):
        read_network(tmp_path / "model.pt", trust=trust)
    torch.save({"model": nested(3, 4)}, tmp_path / "shared.pt")
    assert isinstance(read_network(tmp_path / "shared.pt", trust=trust), torch.nn.Module)


def test_a_module_that_contains_itself(tmp_path):
    network = nested(2, 2)
    network.model[0].itself = network.model
    torch.save({"model": network}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match=r"model\.pt: .* a module that contains itself"):
        read_network(tmp_path / "model.pt", trust=False)
