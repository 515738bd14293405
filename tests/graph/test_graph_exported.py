"""What separable.graph.load_exported promises: layers again, the same numbers, and no code from the file."""

import copy
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from separable import models
from separable.cost import count
from separable.errors import FileError, ModelError
from separable.graph import load_exported, replace, trace


class Various(nn.Module):
    """Many kinds of call: tied layers, a padded one, functions, a temporary buffer, a constant, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.twice = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.edges = nn.Conv2d(8, 8, 3, stride=2, padding=1, padding_mode="reflect", groups=2)
        self.kernel = nn.Parameter(torch.randn(8, 8, 1, 1))
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.free = nn.BatchNorm2d(8, affine=False)
        self.head = nn.Linear(8, 5)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, x: Tensor, *, gain: Tensor) -> dict[str, Any]:
        x = self.twice(self.twice(F.relu(self.stem(x)))) * gain
        x = self.free(F.conv2d(self.edges(x), self.kernel) + self.shift)
        low, high = self.up(x).chunk(2, dim=1)
        values, _ = torch.cat([high, low], dim=1).flatten(2).max(dim=2)
        weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
        return {"classes": self.head(F.dropout(values, training=self.training)) * weight, "size": (values, [x])}


def saved(model: nn.Module, args: tuple[Any, ...], path: Path, **options: Any) -> Path:
    torch.export.save(torch.export.export(model, args, **options), path)
    return path


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = Various().eval()
    for norm in (model.stem[1], model.free):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    kwargs = {"gain": torch.ones(1)}
    shapes = {"x": {0: torch.export.Dim("n")}, "gain": None}
    path = tmp_path_factory.mktemp("exported") / "various.pt2"
    return model, saved(model, (torch.randn(2, 3, 12, 12),), path, kwargs=kwargs, dynamic_shapes=shapes)


def test_the_loaded_model_computes_the_same_at_any_batch_size(various: tuple[nn.Module, Path]) -> None:
    model, path = various
    loaded, _ = load_exported(path)
    x, gain = torch.randn(5, 3, 12, 12), torch.full((1,), 3.0)
    expected, found = model(x, gain=gain), loaded(x, gain=gain)
    torch.testing.assert_close(found, expected)
    assert isinstance(found["size"], tuple)


def test_convolutions_linear_layers_and_batch_norms_are_layers_with_their_old_names(
    various: tuple[nn.Module, Path],
) -> None:
    model, path = various
    loaded, _ = load_exported(path)
    layers = {name: type(module) for name, module in loaded.named_modules() if not list(module.children())}
    assert layers == {
        "stem.0": nn.Conv2d,
        "stem.1": nn.BatchNorm2d,
        "twice": nn.Conv2d,
        "edges": nn.Conv2d,
        "kernel_conv2d": nn.Conv2d,
        "free": nn.BatchNorm2d,
        "head": nn.Linear,
        "up": nn.Module,  # a transposed convolution stays a function; this holds its weight
    }
    names = {name.replace("kernel_conv2d.weight", "kernel") for name in loaded.state_dict()}
    assert names == set(model.state_dict())
    assert not any(module.training for module in loaded.modules())


def test_a_layer_called_twice_is_one_layer(various: tuple[nn.Module, Path]) -> None:
    loaded, _ = load_exported(various[1])
    sites = trace(loaded, {"x": torch.zeros(2, 3, 12, 12), "gain": torch.ones(1)})
    calls = {site.name: site.calls for site in sites.sites}
    assert calls == {"stem.0": 1, "twice": 2, "edges": 1, "kernel_conv2d": 1}


def test_the_example_comes_with_the_model(tmp_path: Path) -> None:
    x = torch.randn(2, 3)
    _, example = load_exported(saved(nn.Linear(3, 1), (x,), tmp_path / "m.pt2"))
    assert isinstance(example, Tensor)
    assert torch.equal(example, x)


def test_a_reference_network_is_counted_replaced_trained_and_exported_again(tmp_path: Path) -> None:
    model, x = models.resnet_small().eval(), torch.randn(2, 1, 32, 32)
    loaded, example = load_exported(saved(model, (x,), tmp_path / "m.pt2"))
    assert count(loaded, example).total.macs == count(model, x).total.macs
    assert count(loaded, example).total.parameters == count(model, x).total.parameters
    before, after = trace(model, x).sites, trace(loaded, x).sites
    assert [(site.name, site.spec) for site in after] == [(site.name, site.spec) for site in before]
    torch.testing.assert_close(loaded(x), model(x))
    name = after[3].name
    loaded = replace(loaded, {name: copy.deepcopy(model.get_submodule(name))}).train()
    loaded(x).square().sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())
    again, _ = load_exported(saved(loaded.eval(), (x,), tmp_path / "again.pt2"))
    torch.testing.assert_close(again(x), loaded(x))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3, dilation=2)
        self.wide.weight = self.narrow.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(self.narrow(x))


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_tied_weights_stay_tied_and_channels_last_stays_channels_last(tmp_path: Path) -> None:
    model = Tied().eval().to(memory_format=torch.channels_last)
    loaded, x = load_exported(saved(model, (torch.randn(1, 2, 9, 9),), tmp_path / "m.pt2"))
    weights = [module.weight for module in loaded.modules() if isinstance(module, nn.Conv2d)]
    assert len(weights) == 2
    assert weights[0] is weights[1]
    assert weights[0].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(loaded(x), model(x))


def test_a_model_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    path = saved(nn.BatchNorm2d(2).train(), (torch.randn(2, 2, 3, 3),), tmp_path / "m.pt2")
    with pytest.raises(ModelError, match=r"model\.eval"):
        load_exported(path)


class Bomb:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def changed(path: Path, entry: str, content: bytes, new: Path) -> Path:
    """A copy of an archive in which the entry with that ending has another content."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(new, "w") as target:
        assert any(name.endswith(entry) for name in source.namelist())
        for name in source.namelist():
            target.writestr(name, content if name.endswith(entry) else source.read(name))
    return new


def edited(path: Path, entry: str, old: str, text: str, new: Path) -> Path:
    with zipfile.ZipFile(path) as source:
        content = next(source.read(name) for name in source.namelist() if name.endswith(entry)).decode()
    assert old in content
    return changed(path, entry, content.replace(old, text).encode(), new)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(nn.Linear(3, 2), (torch.ones(1, 3),), tmp_path_factory.mktemp("linear") / "linear.pt2")


def test_a_pickle_in_the_place_of_the_example_is_not_run(linear: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    buffer = io.BytesIO()
    torch.save(Bomb(trap), buffer)
    for content in (buffer.getvalue(), pickle.dumps(Bomb(trap))):
        with pytest.raises(FileError, match="more than tensors"):
            load_exported(changed(linear, "sample_inputs/model.pt", content, tmp_path / "bad.pt2"))
    assert not trap.exists()


def test_a_pickle_in_the_place_of_a_weight_is_not_run(linear: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    buffer = io.BytesIO()
    torch.save(Bomb(trap), buffer)
    bad = changed(linear, "weights/weight_0", buffer.getvalue(), tmp_path / "bad.pt2")
    config = "model_weights_config.json"
    with pytest.raises(FileError, match="more than tensors"):
        load_exported(edited(bad, config, '"use_pickle": false', '"use_pickle": true', tmp_path / "worse.pt2"))
    assert not trap.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.prim.Print.default",
        "_operator.methodcaller",
        "aten.linear",
    ],
)
def test_only_operators_on_tensors_are_called(linear: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(ModelError, match="operators"):
        load_exported(edited(linear, "model.json", "torch.ops.aten.linear.default", target, tmp_path / "bad.pt2"))


@pytest.mark.parametrize("name", ["weight);import os;(", "a..b", "", "é"])
def test_a_name_that_would_be_code_is_refused(linear: Path, tmp_path: Path, name: str) -> None:
    old, new = '"parameter_name": "weight"', f'"parameter_name": {json.dumps(name)}'
    with pytest.raises(FileError, match="names joined by dots"):
        load_exported(edited(linear, "models/model.json", old, new, tmp_path / "bad.pt2"))


def test_an_argument_name_that_would_be_code_is_refused(linear: Path, tmp_path: Path) -> None:
    old, new = '"forward_arg_names": ["input"]', '"forward_arg_names": ["input=exit()"]'
    with pytest.raises(FileError, match="a Python name"):
        load_exported(edited(linear, "models/model.json", old, new, tmp_path / "bad.pt2"))


def test_a_weight_that_reaches_beyond_its_bytes_is_refused(linear: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="weight_0"):
        load_exported(changed(linear, "weights/weight_0", b"\0" * 8, tmp_path / "bad.pt2"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"torch\.export\.save"):
        load_exported(path)


def test_a_missing_file_and_another_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        load_exported(tmp_path / "missing.pt2")
    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(FileError, match="0 exported programs"):
        load_exported(tmp_path / "weights.pt")


def test_a_damaged_graph_is_refused(linear: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="not understood"):
        load_exported(changed(linear, "models/model.json", b'{"schema_version": {"major": 8}}', tmp_path / "bad.pt2"))
    with pytest.raises(FileError, match="schema 9"):
        load_exported(changed(linear, "models/model.json", b'{"schema_version": {"major": 9}}', tmp_path / "bad.pt2"))
