"""Programs in files. In: models of every kind of input and output. Out: what a session gives for them, or one error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from small_networks import build
from torch import Tensor, nn

import separable
from separable.engine import Program, compile
from separable.errors import FileError, ModelError
from separable.runtime.saved import FORMAT, Output


class Returns(nn.Module):
    """A convolution, and something made of its result."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(6, 12, 3, padding=1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x).relu())


class WithAnchors(nn.Conv2d):
    """Beside its result it returns its input and a constant."""

    anchors = torch.arange(4.0)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"maps": [x, super().forward(x)], "anchors": self.anchors, "count": 2, "none": None}


RETURNS: dict[str, Callable[[Tensor], Any]] = {
    "a map": lambda y: y,
    "a tuple": lambda y: (y, y.mean((2, 3))),
    "a flat map": lambda y: y.flatten(1),
    "pixels as tokens": lambda y: y.flatten(2).transpose(1, 2),
    "boxes": lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4),
}


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(6, 24, 3, 2, 1, bias=False),
        nn.BatchNorm2d(24),
        nn.Hardswish(),
        nn.Conv2d(24, 24, 5, 1, 2, groups=24),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Conv2d(24, 40, 1),
        nn.GroupNorm(5, 40),
        nn.SiLU(),
        nn.ChannelShuffle(4),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(40, 10),
    )


def through_file(program: Program, folder: Path, **options: Any) -> separable.Session:
    program.save(folder / "program.safetensors")
    return separable.load(folder / "program.safetensors", threads=program.threads, measure=False, **options)


def is_equal(ours: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(ours, np.ndarray) and np.array_equal(ours, expected.numpy())
    if isinstance(expected, dict):
        return ours.keys() == expected.keys() and all(is_equal(ours[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return type(ours) is type(expected) and all(map(is_equal, ours, expected))
    return bool(ours == expected)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_session_returns_what_the_program_returns(name: str, batch: int, tmp_path: Path) -> None:
    x = images(batch, 6, 5, 7)
    program = compile(build(lambda: Returns(RETURNS[name])), x, threads=2, measure=False)
    assert is_equal(through_file(program, tmp_path)(x.numpy()), program(x))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "images": (small, (2, 6, 16, 20)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(5, 9, 7, padding=3), nn.GELU(), nn.Conv1d(9, 4, 1)), (1, 5, 33)),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)), (1, 3, 4, 6, 8)),
    "an input in another shape": (lambda: nn.Sequential(nn.Unflatten(1, (3, 4)), nn.Conv2d(3, 5, 1)), (2, 12, 6)),
    "what is no result of the network": (lambda: WithAnchors(6, 3, 3), (1, 6, 8, 8)),
    "no image": (lambda: nn.Conv2d(6, 3, 1), (0, 6, 4, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_can_be_saved(name: str, tmp_path: Path) -> None:
    make, shape = MODELS[name]
    x = images(*shape)
    program = compile(build(make), x, threads=2, measure=False)
    assert is_equal(through_file(program, tmp_path)(x.numpy()), program(x))


def test_every_shape_so_far_is_in_the_file_and_the_weights_once(tmp_path: Path) -> None:
    program = compile(build(small), images(1, 6, 16, 16), threads=1, measure=False)
    program.prepare(images(4, 6, 12, 20))
    session = through_file(program, tmp_path)
    assert session.shapes == (((1, 6, 16, 16),), ((4, 6, 12, 20),))
    for (shape,) in session.shapes:
        assert is_equal(session(images(*shape)), program(images(*shape)))
    weights = [array.shape for array in load_file(tmp_path / "program.safetensors").values()]
    assert weights.count((24, 6, 3, 3)) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_may_have_any_order(layout: torch.memory_format, tmp_path: Path) -> None:
    x = images(2, 6, 16, 16)
    program = compile(build(small), x.to(memory_format=layout), threads=1, measure=False)
    session = through_file(program, tmp_path)
    for given in (x.numpy(), x.to(memory_format=torch.channels_last).numpy(), x.flip(3).numpy()[..., ::-1]):
        assert np.allclose(session(given), program(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_warm", [False, True], ids=["on a new machine", "where all is kept"])
def test_a_session_runs_without_pytorch(is_warm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEPARABLE_CACHE", str(tmp_path))
    x = images(1, 6, 16, 16)
    program = compile(build(small), x, threads=1, measure=is_warm)
    program.save(tmp_path / "program.safetensors")
    np.save(tmp_path / "x.npy", x.numpy())
    code = (
        "import sys, numpy, separable; session = separable.load('program.safetensors', threads=1);"
        "numpy.save('y.npy', session(numpy.load('x.npy'))); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), program(x).numpy(), rtol=1e-5, atol=1e-6)


def test_an_output_is_cut_turned_and_joined() -> None:
    output = Output(name="y", parts=(2, 3), order=(1, 0), shape=(6,))
    assert output.of(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [1, 4, 2, 5, 3, 6]


def test_what_stays_in_pytorch_cannot_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Softmax(2), nn.Conv2d(8, 8, 1))
    program = compile(model.eval(), images(1, 6, 6, 16), measure=False)
    with pytest.raises(
        ModelError,
        match=r"(?s)Program\.save: got calls that stay in PyTorch:\n  softmax.*expected a model that runs natively",
    ):
        program.save(tmp_path / "program.safetensors")
    assert not list(tmp_path.iterdir())


WRONG: dict[str, tuple[tuple[NDArray[Any], ...], str]] = {
    "another shape": ((np.zeros((1, 6, 9, 9), np.float32),), r"got \(1, 6, 9, 9\); expected \(1, 6, 16, 16\).*prepare"),
    "two inputs": ((np.zeros((1, 6, 16, 16), np.float32),) * 2, r"got \(1, 6, 16, 16\), \(1, 6, 16, 16\); expected"),
    "none": ((), "got nothing; expected"),
    "another dtype": ((np.zeros((1, 6, 16, 16)),), "input 0 of the program: got float64; expected float32"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_refused(name: str, tmp_path: Path) -> None:
    given, message = WRONG[name]
    session = through_file(compile(build(small), images(1, 6, 16, 16), threads=1, measure=False), tmp_path)
    with pytest.raises(ModelError, match=message):
        session(*given)


def damaged(path: Path, metadata: dict[str, str]) -> None:
    save_file({"x": np.zeros(1, np.float32)}, path, metadata=metadata)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (Path.exists, "No such file"),
    "text": (lambda path: path.write_text("no tensors at all"), "a file written by Program.save"),
    "only tensors": (lambda path: damaged(path, {}), "got other tensors; expected a 'separable program 1'"),
    "a later format": (lambda path: damaged(path, {"format": "separable program 2"}), "got separable program 2"),
    "no JSON": (lambda path: damaged(path, {"format": FORMAT, "forwards": "["}), "a file written by Program.save"),
    "an unknown operator": (
        lambda path: damaged(path, {"format": FORMAT, "forwards": json.dumps([{"a": "Attend"}])}),
        "a file written by Program.save",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_program_is_one_error(name: str, tmp_path: Path) -> None:
    make, message = FILES[name]
    make(tmp_path / "program.safetensors")
    with pytest.raises(FileError, match=message):
        separable.load(tmp_path / "program.safetensors")


def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    program = compile(build(small), images(1, 6, 16, 16), threads=1, measure=False)
    with pytest.raises(FileError, match="existing folder"):
        program.save(tmp_path / "nowhere" / "program.safetensors")


def test_a_number_of_threads_is_checked(tmp_path: Path) -> None:
    program = compile(build(small), images(1, 6, 16, 16), threads=1, measure=False)
    program.save(tmp_path / "program.safetensors")
    with pytest.raises(ModelError, match=r"separable\.load: got threads=0"):
        separable.load(tmp_path / "program.safetensors", threads=0)
