"""What distillation by several processes promises. In: two processes of torchrun. Out: the model of a single one."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn
from tune_networks import digits, rewritten, untrained

from separable.errors import FileError
from separable.tune import DistillOptions, TrainOptions, cross_entropy, distill, process_group, read_batches, train

OPTIONS = DistillOptions(steps=10, checkpoint_every=4)


def run(has_norms: bool, checkpoint: Path | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """The weights after a short distillation, by this process or its share of it."""
    images = digits()[0]
    teacher = untrained(has_norms)
    data = read_batches(images[:300], images[:1], batch_size=32)
    student = rewritten(teacher)
    student.register_parameter("unused", nn.Parameter(torch.ones(3, 3)))
    options = replace(OPTIONS, seed=seed)
    return distill(teacher, student, data, options=options, checkpoint=checkpoint).model.state_dict()


def trained() -> dict[str, torch.Tensor]:
    """The weights after a short training on batches of one's own, with targets that are no plain tensor."""
    images, labels = digits()
    data = [((x,), {"labels": y, "names": ["a"] * 32}) for x, y in zip(images.split(32), labels.split(32), strict=True)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Conv2d(4, 4, 3), norm, nn.Flatten(), nn.Linear(64, 10)
        )

    def loss(outputs: torch.Tensor, targets: dict[str, Any]) -> torch.Tensor:
        assert len(targets["names"]) == len(outputs)
        return cross_entropy(outputs, targets["labels"])

    options = TrainOptions(epochs=2, average_decay=0.9, optimizer="sgd", learning_rate=0.05)
    return train(model, data[:8], loss, options, evaluate=lambda _: float(seen.append(1) or 0)).model.state_dict()


seen: list[int] = []


def one_of_two(folder: Path) -> None:
    """What each of the two processes does; rank 0 alone has a folder for the checkpoint."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with process_group():
        rank = dist.get_rank()
        checkpoint = (folder if rank == 0 else folder / "missing") / "run.pt"
        found: dict[str, Any] = {str(norms): run(norms, checkpoint if norms else None) for norms in (False, True)}
        found["again"] = run(True, checkpoint)
        found["trained"] = trained()
        (folder / f"evaluated{rank}.json").write_text(json.dumps(len(seen)))
        try:
            run(True, checkpoint, seed=1)
        except FileError as error:
            (folder / f"refused{rank}.json").write_text(json.dumps(error.given))
        torch.save(found, folder / f"weights{rank}.pt")
    (folder / f"left{rank}.json").write_text(json.dumps(dist.is_initialized()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, __file__, str(folder)], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder: Path, rank: int, key: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"weights{rank}.pt", weights_only=True)[key]


@pytest.mark.parametrize("key", ["False", "True", "again", "trained"])
def test_both_processes_come_to_the_same_weights(folder: Path, key: str) -> None:
    first, second = weights(folder, 0, key), weights(folder, 1, key)
    assert all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def apart(has_norms: bool, folder: Path) -> float:
    """How far the weights of two processes are from those of one, as a share of the way that training went."""
    start = dict(rewritten(untrained(has_norms)).named_parameters())
    alone, together = run(has_norms), weights(folder, 0, str(has_norms))
    gone = sum(float((alone[name] - start[name]).square().sum()) for name in start)
    return sum(float((alone[name] - together[name]).square().sum()) for name in start) / gone


@pytest.mark.parametrize("has_norms", [False, True])
def test_two_processes_come_to_the_weights_of_one(folder: Path, has_norms: bool) -> None:
    # The gradient of a bias in front of a batch norm is rounding alone, out of which AdamW makes steps of full length.
    assert apart(has_norms, folder) < (1e-3 if has_norms else 1e-8)


def test_two_processes_train_to_the_weights_of_one_with_batch_norms_and_structured_targets(folder: Path) -> None:
    alone, together = trained(), weights(folder, 0, "trained")
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-5)


def test_the_first_process_alone_evaluates(folder: Path) -> None:
    assert [json.loads((folder / f"evaluated{rank}.json").read_text()) for rank in (0, 1)] == [2, 0]


def test_a_weight_that_the_output_does_not_depend_on_is_no_trouble(folder: Path) -> None:
    assert torch.equal(weights(folder, 0, "False")["unused"], torch.ones(3, 3))


def test_the_first_process_writes_and_all_resume_from_it(folder: Path) -> None:
    assert torch.load(folder / "run.pt", weights_only=True)["state"]["step"] == OPTIONS.steps
    before, after = weights(folder, 1, "True"), weights(folder, 1, "again")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("rank", [0, 1])
def test_what_the_first_process_cannot_read_stops_all_of_them(folder: Path, rank: int) -> None:
    assert "another model" in json.loads((folder / f"refused{rank}.json").read_text())


@pytest.mark.parametrize("rank", [0, 1])
def test_the_group_is_left_at_the_end(folder: Path, rank: int) -> None:
    assert json.loads((folder / f"left{rank}.json").read_text()) is False


def test_without_torchrun_there_is_no_group() -> None:
    with process_group():
        assert not dist.is_initialized()


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]))
