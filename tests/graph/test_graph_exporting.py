"""What separable.graph.save_exported promises: what is saved comes back, at any batch size, or there is no file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from separable.errors import FileError, ModelError
from separable.graph import load_exported
from separable.graph.exporting import save_exported


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 3))
    model(torch.randn(4, 1, 8, 8))
    return model


def test_a_saved_model_comes_back_in_evaluation_mode_with_its_example_for_any_batch_size(tmp_path: Path) -> None:
    model, x = small().train(), torch.randn(1, 1, 8, 8)
    save_exported(model, x, tmp_path / "m.pt2")
    assert model.training
    loaded, example = load_exported(tmp_path / "m.pt2")
    assert torch.equal(example, x)
    many = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(loaded(many), model.eval()(many))


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"sum": x + y}


@pytest.mark.parametrize("as_dict", [True, False])
def test_several_arguments_come_back_in_the_form_they_were_given(tmp_path: Path, as_dict: bool) -> None:
    x, y = torch.ones(2, 3), torch.full((2, 3), 2.0)
    example = {"x": x, "y": y} if as_dict else (x, y)
    save_exported(Sum(), example, tmp_path / "m.pt2")
    loaded, found = load_exported(tmp_path / "m.pt2")
    assert type(found) is type(example)
    result = loaded(**found) if as_dict else loaded(*found)
    assert torch.equal(result["sum"], x + y)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="state_dict"):
        save_exported(Branching(), torch.ones(2, 2), tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileError):
        save_exported(Branching(), torch.ones(2, 2), tmp_path / "nowhere" / "m.pt2")
