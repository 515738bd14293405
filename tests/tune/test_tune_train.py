"""What train promises. In: a network, labelled data. Out: a network that knows them, bit by bit the same each time."""

import copy
import itertools
import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from tune_networks import digits

from separable.errors import DataError, FileError, ModelError, SeparableError
from separable.nn import DepthwiseSeparableConv2d
from separable.tune import Trained, TrainOptions, accuracy, cross_entropy, read_batches, train
from separable.tune.average import Average

SHORT = TrainOptions(epochs=3, checkpoint_every=3, label_smoothing=0.1)
Weights = dict[str, Tensor]
Data = Any


class Separable(nn.Sequential):
    """A small separable network for digits of 8×8, with batch norms and dropout."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            DepthwiseSeparableConv2d(8, 24, 3, padding=1, norm=nn.BatchNorm2d, activation=nn.ReLU),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(24, 10),
        )


def network() -> nn.Module:
    """Always with the same random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Separable()


def pairs(count: int = 160, size: int = 40) -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return list(zip(images[:count].split(size), labels[:count].split(size), strict=True))


def weights_of(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(weights: Weights, others: Weights) -> bool:
    return all(torch.equal(weights[name], others[name]) for name in weights)


def run(data: Data = None, options: TrainOptions = SHORT, **given: Any) -> Trained:
    """A short training."""
    return train(network(), pairs() if data is None else data, options=options, **given)


def trained_weights(data: Data = None, options: TrainOptions = SHORT, **given: Any) -> Weights:
    """The weights after a short training."""
    return weights_of(run(data, options, **given).model)


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(epochs=6, learning_rate=0.05),
        TrainOptions(epochs=6, learning_rate=0.05, average_decay=0, label_smoothing=0.1, schedule="constant"),
        TrainOptions(epochs=6, learning_rate=0.05, precision="bfloat16"),
        TrainOptions(epochs=6, optimizer="sgd", learning_rate=0.2, weight_decay=1e-4),
        TrainOptions(epochs=6, optimizer="rmsprop", learning_rate=0.01, weight_decay=1e-5),
    ],
    ids=["adamw", "no average", "bfloat16", "sgd", "rmsprop"],
)
def test_unseen_digits_are_recognised_after_training_and_not_before(options: TrainOptions) -> None:
    images, labels = digits()
    unseen = read_batches((images[1200:], labels[1200:]), images[:1])
    trained = run(pairs(1000, 50), options, evaluate=lambda model: accuracy(model, unseen))
    assert accuracy(network(), unseen) < 0.3
    assert trained.evaluations[-1] > 0.65
    assert trained.evaluations[-1] == accuracy(trained.model, unseen)
    assert (len(trained.evaluations), len(trained.history), trained.steps_per_epoch) == (6, 120, 20)
    assert trained.losses[-1] < 0.7 * trained.losses[0]
    assert "trained for 6 epochs of 20 steps" in str(trained)
    assert all(weight.dtype == torch.float32 for weight in trained.model.parameters())


def test_the_given_model_and_the_global_random_numbers_stay_as_they_were() -> None:
    model = network()
    before = weights_of(model), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found = train(model, pairs(), options=SHORT).model
    assert same(before[0], weights_of(model))
    assert torch.equal(before[1], torch.get_rng_state())
    assert (before[2], before[3]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in found.modules())
    assert all(weight.grad is None and weight.requires_grad for weight in [*model.parameters(), *found.parameters()])


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    assert same(trained_weights(), trained_weights())
    assert not same(trained_weights(), trained_weights(options=replace(SHORT, seed=1)))


def test_it_trains_although_the_caller_has_turned_gradients_off() -> None:
    with torch.no_grad():
        assert not same(trained_weights(), weights_of(network()))


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Digits with noise from all three global sources of random numbers."""

    def __len__(self) -> int:
        return 120

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = digits()
        noise = 0.1 * torch.randn(1) + 0.1 * np.random.normal() + 0.1 * random.gauss()
        return (images[index] + noise).float(), labels[index]


def augmented(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Digits with noise, anew each epoch."""
    for images, labels in pairs():
        yield images + 0.1 * torch.randn_like(images) + 0.1 * epoch, labels


def labelled_batches() -> Data:
    images, labels = digits()
    return read_batches((images[:150], labels[:150]), images[:1], batch_size=40)


DATA: dict[str, Callable[[], Data]] = {
    "list": pairs,
    "batches": labelled_batches,
    "loader": lambda: DataLoader(Noisy(), batch_size=40),
    "workers": lambda: DataLoader(Noisy(), batch_size=30, num_workers=2),
    "sampler": lambda: DataLoader(Noisy(), batch_size=40, sampler=WeightedRandomSampler([1] * 120, 80)),
    "function of the epoch": lambda: augmented,
    "iterable": lambda: tuple(pairs()),
}


def stop_after(step: int) -> Callable[[int, int], None]:
    """A listener to the progress that presses Ctrl-C."""

    def tell(done: int, _: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return tell


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("step", [4, 6])
def test_a_run_stopped_within_or_behind_an_epoch_goes_on_to_the_very_same_end(
    tmp_path: Path, name: str, step: int
) -> None:
    images, labels = digits()
    path = tmp_path / "run.pt"
    judged: dict[str, Any] = {"evaluate": lambda model: accuracy(model, read_batches((images, labels), images[:1]))}
    whole = run(DATA[name](), **judged)
    assert len({round(loss, 6) for loss in whole.history}) == len(whole.history)
    with pytest.raises(KeyboardInterrupt):
        run(DATA[name](), checkpoint=path, progress=stop_after(step), **judged)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True)["state"]["step"] == step // 3 * 3
    again = run(DATA[name](), checkpoint=path, **judged)
    assert same(weights_of(again.model), weights_of(whole.model))
    assert (again.history, again.evaluations) == (whole.history, whole.evaluations)


@pytest.mark.parametrize(
    "options",
    [
        replace(SHORT, optimizer="sgd", learning_rate=0.1, precision="bfloat16"),
        replace(SHORT, optimizer="rmsprop", learning_rate=0.01, average_decay=0),
    ],
    ids=["sgd", "rmsprop"],
)
def test_other_optimisers_go_on_exactly_too(tmp_path: Path, options: TrainOptions) -> None:
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(options=options, checkpoint=path, progress=stop_after(5))
    assert same(trained_weights(options=options, checkpoint=path), trained_weights(options=options))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import test_tune_train as tests

def augmented(epoch):
    for index, batch in enumerate(tests.augmented(epoch)):
        if (epoch, index) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch

torch.set_num_threads(int(sys.argv[2]))
tests.run(augmented, checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_run_is_resumed_to_the_very_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    command = [sys.executable, "-c", KILLED, str(path), str(torch.get_num_threads())]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(path, weights_only=True)["state"]["step"] == 6
    assert same(trained_weights(augmented, checkpoint=path), trained_weights(augmented))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    path, steps = tmp_path / "run.pt", []
    first = run(checkpoint=path)
    again = run(checkpoint=path, progress=lambda done, _: steps.append(done))
    assert steps == []
    assert same(weights_of(again.model), weights_of(first.model))
    assert again.history == first.history


@pytest.mark.parametrize("other", ["options", "data", "model", "loss"])
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, other: str) -> None:
    path = tmp_path / "run.pt"
    plain = replace(SHORT, label_smoothing=0)
    run(options=plain, checkpoint=path)
    model = network()
    if other == "model":
        nn.init.zeros_(model[0].weight)
    options = replace(plain, epochs=4) if other == "options" else plain
    loss = (lambda outputs, targets: F.cross_entropy(outputs, targets)) if other == "loss" else cross_entropy
    with pytest.raises(FileError, match="another model, other data or other options"):
        train(model, pairs(120) if other == "data" else pairs(), loss, options, checkpoint=path)


@pytest.mark.parametrize("content", [b"", b"hello", "half"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "run.pt"
    run(checkpoint=path)
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(FileError, match=r"run\.pt: got .*; expected a checkpoint\. Delete the file"):
        run(checkpoint=path)


def test_an_unwritable_checkpoint_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing"):
        run(checkpoint=tmp_path / "missing" / "run.pt", progress=lambda *_: pytest.fail("a step was made"))


def test_one_step_of_gradient_descent_is_the_one_worked_by_hand() -> None:
    # y = w x with w = 1, x = 1 and 3, wanted 0 and 0: loss (1 + 9)/2, gradient (2·1 + 2·9)/2 = 10.
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    data = [(torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1))]
    plain: dict[str, Any] = {"epochs": 1, "optimizer": "sgd", "warm_up": 0, "weight_decay": 0, "average_decay": 0}

    def weight(**options: Any) -> float:
        found = train(model, data, F.mse_loss, TrainOptions(**plain | {"learning_rate": 0.01} | options))
        assert found.history == (5.0,)
        return found.model.weight.item()

    # Nesterov's momentum of 0.9 makes the first step 1.9 times as long.
    assert weight(clip=math.inf) == pytest.approx(1 - 0.01 * 1.9 * 10)
    assert weight(clip=2.0) == pytest.approx(1 - 0.01 * 1.9 * 2)
    assert weight(clip=math.inf, weight_decay=0.5) == pytest.approx(1 - 0.01 * 1.9 * 10.5)
    # The average after step 1: d = min(0.99, 2/11).
    assert weight(clip=math.inf, average_decay=0.99) == pytest.approx(1 - 9 / 11 * 0.01 * 1.9 * 10)


def test_the_average_follows_weights_and_statistics_and_copies_counters() -> None:
    model = nn.BatchNorm1d(1)
    average = Average(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(2.0)
        model.running_mean.fill_(4.0)
        model.num_batches_tracked.fill_(7)
    for _ in range(2):
        average.follow_(model, 100)
    found = average.model.state_dict()
    # From 1 towards 2 and from 0 towards 4, half of what is left each time.
    assert (found["weight"].item(), found["running_mean"].item()) == (1.75, 3.0)
    assert found["num_batches_tracked"].item() == 7
    assert not average.model.training
    early = Average(nn.BatchNorm1d(1), 0.5)
    early.follow_(model, 1)  # d = 2/11
    assert early.model.weight.item() == pytest.approx(1 + 9 / 11)


def test_statistics_are_taken_anew_for_the_averaged_weights() -> None:
    data = pairs()
    options = replace(SHORT, average_decay=0.9)
    first = run(data, options).model
    images = torch.cat([batch for batch, _ in data])
    maps = first[0](images)
    batches = [first[0](batch) for batch, _ in data]
    torch.testing.assert_close(first[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    expected = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(first[1].running_var, expected, rtol=1e-4, atol=1e-5)
    kept = run(data, replace(options, re_estimate=False)).model
    assert not torch.allclose(kept[1].running_mean, first[1].running_mean, rtol=1e-2)
    assert torch.equal(kept[0].weight, first[0].weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_cross_entropy_is_the_sum_worked_by_hand(smoothing: float) -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])  # probabilities 1/4 and 3/4, then halves
    q = 1 - smoothing / 2, smoothing / 2
    expected = -(q[0] * math.log(3 / 4) + q[1] * math.log(1 / 4) + math.log(1 / 2)) / 2
    found = cross_entropy(logits, torch.tensor([1, 0]), label_smoothing=smoothing)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_labels_of_every_place_are_learned_too() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 6, 6)
    data = [(x, (x[:, 0] > x[:, 1]).long())]
    options = TrainOptions(epochs=60, learning_rate=0.1)
    trained = train(nn.Conv2d(2, 2, 1), data, options=options)
    assert (trained.model(x).argmax(1) == data[0][1]).float().mean() > 0.95


def test_inputs_and_targets_may_be_structured() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(2))

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"sum": self.scale[0] * a, "difference": self.scale[1] * b}

    def loss(outputs: dict[str, Tensor], targets: dict[str, Any]) -> Tensor:
        assert targets["names"] == ["p", "q"]
        return F.mse_loss(outputs["sum"], targets["wanted"][0]) + F.mse_loss(
            outputs["difference"], targets["wanted"][1]
        )

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    targets = {"names": ["p", "q"], "wanted": (3 * a, -2 * b)}
    options = TrainOptions(epochs=100, learning_rate=0.2, weight_decay=0, clip=math.inf)
    for inputs in ((a, b), {"b": b, "a": a}):
        scale = train(Sum(), [(inputs, targets)], loss, options).model.scale
        torch.testing.assert_close(scale, torch.tensor([3.0, -2.0]), rtol=0.1, atol=0)


def test_under_bfloat16_the_model_computes_in_it_and_the_loss_in_float32() -> None:
    seen = set()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.add(outputs.dtype)
        return cross_entropy(outputs, targets)

    found = {
        precision: train(network(), pairs(), loss, TrainOptions(epochs=1, precision=precision)).history
        for precision in ("float32", "bfloat16")
    }
    assert seen == {torch.float32}
    assert found["float32"] != found["bfloat16"]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.02)


def test_weights_in_half_precision_are_refused() -> None:
    with pytest.raises(ModelError, match=r"0\.weight: got weights in half precision.*precision='bfloat16'"):
        train(network().bfloat16(), pairs())


BAD_DATA: dict[str, tuple[Callable[[], Data], type[SeparableError], str]] = {
    "empty": (list, DataError, "no batches"),
    "no samples": (lambda: [(torch.zeros(0, 1, 8, 8), torch.zeros(0))], DataError, "no samples"),
    "a tensor": (lambda: torch.zeros(3, 1, 8, 8), DataError, "got a Tensor"),
    "arrays": (digits, DataError, "read_batches makes batches"),
    "a generator": (lambda: iter(pairs()), DataError, "a function that takes the number of the epoch"),
    "arrays in pairs": (lambda: [(x.numpy(), y) for x, y in pairs()], DataError, "got ndarray; expected inputs"),
    "a number": (lambda: 3, DataError, "got a int"),
    "no labels": (lambda: [(digits()[0], None)], DataError, "inputs alone"),
    "unlabelled batches": (lambda: read_batches(digits()[0], digits()[0][:1]), DataError, "inputs alone"),
    "a class too many": (lambda: [(x, y + 1) for x, y in pairs()], DataError, "labels: got 10; expected 0 to 9"),
    "a negative label": (lambda: [(x, y - 1) for x, y in pairs()], DataError, "labels: got -1"),
    "labels that are no numbers": (lambda: [(x, ["a"] * len(y)) for x, y in pairs()], DataError, "loss of your own"),
    "labels in float": (lambda: [(x, y.float()) for x, y in pairs()], DataError, "labels: got float32"),
    "labels of another size": (lambda: [(x, y[1:]) for x, y in pairs()], DataError, r"\[40, 10\] and labels \[39\]"),
    "inputs of another shape": (
        lambda: [(x.expand(-1, 3, -1, -1), y) for x, y in pairs()], ModelError, r"step 0: got .*inputs \[40, 3, 8, 8\]",
    ),
    "nan": (lambda: [(x * math.nan, y) for x, y in pairs()], ModelError, "a loss of nan at step 0.*not finite in the"),
    "an uneven epoch": (lambda: lambda epoch: pairs()[epoch:], DataError, "epoch 1: got 3 batches; expected 4"),
    "a growing epoch": (lambda: lambda epoch: pairs(80 + 40 * epoch), DataError, "epoch 1: got more than 2 batches"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_do_not_fit_are_one_clear_error(name: str) -> None:
    make, kind, message = BAD_DATA[name]
    with pytest.raises(kind, match=message):
        run(make())


def test_a_diverging_run_stops_and_says_at_which_step_and_what_to_do() -> None:
    wild = TrainOptions(epochs=50, optimizer="sgd", learning_rate=1e30, clip=math.inf, warm_up=0)
    with pytest.raises(ModelError, match=r"at step [1-9]\d*; expected a finite (loss|gradient)\. Lower learning_rate"):
        run(options=wild)


def test_a_gradient_that_is_not_finite_is_no_step() -> None:
    def loss(outputs: Tensor, _: Tensor) -> Tensor:
        return outputs.square().sum().mul(0).sqrt()  # 0, and its derivative is infinite

    with pytest.raises(ModelError, match="a gradient of nan at step 0; expected a finite gradient"):
        train(network(), pairs(), loss, TrainOptions(epochs=1))


def test_a_loss_of_many_numbers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"loss: got \[40\]"):
        train(network(), pairs(), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))


def test_smoothing_for_a_loss_of_ones_own_is_refused() -> None:
    with pytest.raises(SeparableError, match="label_smoothing: got"):
        train(network(), pairs(), F.cross_entropy, SHORT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("learning_rate", math.nan),
        ("weight_decay", -1.0),
        ("warm_up", 1.0),
        ("label_smoothing", 1.0),
        ("average_decay", 1.0),
        ("clip", 0.0),
        ("clip", math.nan),
        ("optimizer", "adam"),
        ("schedule", "steps"),
        ("precision", "float16"),
    ],
)
def test_options_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SeparableError, match=rf"TrainOptions.{name}: got {value}; expected"):
        TrainOptions(**{name: value})


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine_or_stays() -> None:
    options = TrainOptions(warm_up=0.1, learning_rate=1.0)
    rates = [options.learning_rate_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = replace(options, schedule="constant")
    assert [constant.learning_rate_at(step, 100) for step in range(100)] == [*rates[:10], *[1.0] * 90]


def test_every_sample_of_a_list_is_seen_each_epoch_in_a_new_order() -> None:
    seen: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.extend(targets.tolist())
        return outputs.square().mean()

    data = [(torch.ones(2, 3), torch.tensor([2 * k, 2 * k + 1])) for k in range(6)]
    train(nn.Linear(3, 1), data, loss, TrainOptions(epochs=3))
    epochs = [seen[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert not any(one == other for one, other in itertools.combinations([*epochs, list(range(12))], 2))


def test_progress_is_told_step_by_step() -> None:
    seen: list[tuple[int, int]] = []
    run(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 12) for step in range(1, 13)]


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_on_a_gpu_is_trained_there(precision: Any) -> None:
    model = copy.deepcopy(network()).cuda()
    trained = train(model, pairs(), options=replace(SHORT, precision=precision))
    assert next(trained.model.parameters()).is_cuda
    assert trained.losses[-1] < trained.losses[0]
