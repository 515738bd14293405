"""What distill promises. In: a trained network and a worse one. Out: a better one, the same each time; checkpoints."""

import copy
import io
import itertools
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tune_networks import SmallNet, digits, error, rewritten, trained, untrained

from separable.errors import DataError, FileError, ModelError, SeparableError
from separable.factor import FAMILIES
from separable.nn.factorized import from_factors, spec_of
from separable.tune import Batches, DistillOptions, distill, read_batches
from separable.tune.checkpoint import load_checkpoint

SHORT = DistillOptions(steps=12, checkpoint_every=5)
Weights = dict[str, Tensor]


def batches(count: int = 400, *, labelled: bool = False) -> Batches:
    images, labels = digits()
    return read_batches((images[:count], labels[:count]) if labelled else images[:count], images[:1], batch_size=32)


def weights_of(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(weights: Weights, others: Weights) -> bool:
    return all(torch.equal(weights[name], others[name]) for name in weights)


def run(options: DistillOptions = SHORT, checkpoint: Path | None = None, data: Batches | None = None) -> Weights:
    """The weights after distilling, in one go or from a checkpoint."""
    teacher = untrained()
    student = rewritten(teacher)
    return weights_of(distill(teacher, student, data or batches(), options=options, checkpoint=checkpoint).model)


@pytest.mark.parametrize(
    "options",
    [
        DistillOptions(steps=40),
        DistillOptions(steps=40, outputs="values"),
        DistillOptions(steps=40, feature_weight=0),
        DistillOptions(steps=40, optimizer="sgd", learning_rate=0.03),
        DistillOptions(steps=40, label_weight=1.0),
    ],
    ids=["logits", "values", "no features", "sgd", "labels"],
)
def test_the_student_comes_much_closer_on_images_that_nobody_saw(options: DistillOptions) -> None:
    teacher, unseen = trained(), digits()[0][1200:]
    student = rewritten(teacher)
    distilled = distill(teacher, student, batches(labelled=True), options=options)
    assert error(teacher, distilled.model, unseen) < 0.3 * error(teacher, student, unseen)
    assert len(distilled.history) == 40
    assert distilled.history[-1].total < distilled.history[0].total
    assert "distilled for 40 steps" in str(distilled)


def test_the_given_models_and_the_global_random_numbers_stay_as_they_were() -> None:
    teacher, student = copy.deepcopy(trained()).train(), rewritten(trained())
    before = weights_of(teacher), weights_of(student), torch.get_rng_state()
    found = distill(teacher, student, batches(), options=SHORT).model
    assert same(before[0], weights_of(teacher))
    assert same(before[1], weights_of(student))
    assert torch.equal(before[2], torch.get_rng_state())
    assert all(module.training for module in teacher.modules())
    assert not any(module.training for module in found.modules())
    assert all(weight.grad is None for model in (teacher, student, found) for weight in model.parameters())
    assert not any(module._forward_hooks for model in (teacher, student, found) for module in model.modules())


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    assert same(run(), run())
    assert not same(run(), run(DistillOptions(steps=12, seed=1)))


def test_it_trains_although_the_caller_has_turned_gradients_off() -> None:
    with torch.no_grad():
        assert same(run(), run())
        assert not same(run(), weights_of(rewritten(untrained())))


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    teacher = trained(has_norms=False)
    # Plain gradient descent: Adam makes steps of full length out of rounding errors.
    options = DistillOptions(steps=12, optimizer="sgd", weight_decay=0)
    history = distill(teacher, rewritten(teacher, share=1.0), batches(), options=options).history
    assert max(loss.output for loss in history) < 1e-4
    assert max(loss.features for loss in history) < 1e-4


def test_the_losses_are_those_worked_by_hand() -> None:
    class Bias(nn.Module):
        def __init__(self, values: list[float]) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(values))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.bias

    data = read_batches((torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)), torch.zeros(1, 2))
    # At temperature 2 the teacher's probabilities are 3/4 and 1/4, the student's 1/2 and 1/2.
    models = Bias([2 * math.log(3), 0.0]), Bias([0.0, 0.0])
    options = DistillOptions(steps=1, temperature=2.0, label_weight=0.5)
    (loss,) = distill(*models, data, options=options).history
    divergence = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert loss.output == pytest.approx(divergence, rel=1e-5)
    assert loss.labels == pytest.approx(math.log(2), rel=1e-5)
    assert loss.total == pytest.approx(divergence + 0.5 * math.log(2), rel=1e-5)


def test_among_logits_an_output_without_classes_is_compared_by_its_values() -> None:
    class Bias(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(value))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + 0 * self.bias, x[:, 0] + self.bias

    images = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # the second output varies by 1 around its mean
    data = read_batches(images, images)
    (loss,) = distill(Bias(0.0), Bias(0.5), data, options=DistillOptions(steps=1)).history
    assert loss.output == pytest.approx((0.0 + 0.25) / 2)  # no divergence of the logits, and an error of 0.5² / 1


def test_a_layer_that_answers_the_same_everywhere_does_not_drown_the_others() -> None:
    conv = nn.Conv2d(1, 4, 3)
    nn.init.zeros_(conv.weight)
    factors = FAMILIES["spatial"].factorize(conv.weight, spec_of(conv, (8, 8)), (1,))
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student = nn.Sequential(from_factors(factors, bias=conv.bias))
    for weight in student.parameters():  # rounding would be what its error is divided by
        nn.init.constant_(weight, 0.1)
    history = distill(
        nn.Sequential(conv), student, read_batches(images, images), options=DistillOptions(steps=3)
    ).history
    assert max(loss.features for loss in history) < 1


def test_a_model_that_overwrites_what_its_gradient_needs_is_refused_in_words() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.exp(x * self.scale)
            return y.clone() + y.mul_(2)

    images = torch.ones(4, 2)
    with pytest.raises(ModelError, match="can be trained"):
        distill(Overwriting(), Overwriting(), read_batches(images, images), options=SHORT)


def test_weights_of_float16_are_refused_before_the_work() -> None:
    with pytest.raises(ModelError, match="float16"):
        distill(trained(), rewritten(trained()).half(), batches(), options=SHORT)


def test_what_does_not_require_a_gradient_is_not_trained() -> None:
    student = rewritten(trained())
    student.get_submodule("classify").requires_grad_(False)
    before = weights_of(student)
    after = weights_of(distill(trained(), student, batches(), options=SHORT).model)
    assert torch.equal(before["classify.weight"], after["classify.weight"])
    assert not torch.equal(before["stem.weight"], after["stem.weight"])
    with pytest.raises(ModelError, match="something to train"):
        distill(trained(), student.requires_grad_(False), batches(), options=SHORT)


def test_weight_decay_spares_biases_norms_and_depthwise_weights() -> None:
    student = rewritten(trained(), share=0.5, family="depthwise")
    # The gradient is clipped to nothing, so that what changes is what decays.
    decaying = DistillOptions(steps=3, weight_decay=1.0, learning_rate=0.1, clip=1e-9, optimizer="sgd")
    before = weights_of(student)
    after = weights_of(distill(student, student, batches(), options=decaying).model)
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=0, rtol=1e-3)}
    assert {"stem.weight", "middle.1.weight", "last.1.weight", "classify.weight"} <= changed
    assert not changed & {"middle.0.weight", "last.0.weight", "last.1.bias", "norms.0.weight", "classify.bias"}


def brighter(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + torch.rand(len(images), 1, 1, 1, generator=generator)


def test_augmentation_sees_every_batch_and_is_reproducible() -> None:
    augmented = DistillOptions(steps=12, checkpoint_every=5, augment=brighter)
    assert same(run(augmented), run(augmented))
    assert not same(run(augmented), run())


def test_training_on_a_stream_works_too() -> None:
    images = digits()[0]
    stream = read_batches(lambda: iter(images[:100].split(30)), images[:1], batch_size=32)
    assert all(weight.isfinite().all() for weight in run(data=stream).values())


def stopping_at(count: int) -> Callable[[Tensor, torch.Generator], Tensor]:
    """An augmentation during which somebody presses Ctrl-C."""
    calls = itertools.count(1)

    def interrupted(images: Tensor, generator: torch.Generator) -> Tensor:
        if next(calls) == count:
            raise KeyboardInterrupt
        return brighter(images, generator)

    return interrupted


def test_ctrl_c_leaves_the_last_checkpoint_from_which_the_run_comes_to_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"

    def options(stop: int) -> DistillOptions:
        return DistillOptions(steps=12, checkpoint_every=5, augment=stopping_at(stop))

    with pytest.raises(KeyboardInterrupt):
        run(options(8), path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path, weights_only=True)["state"]["step"] == 5
    assert same(run(options(8), path), run(options(100)))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
import test_tune_distill as tests

def brighter(images, generator):
    if len(list(Path(sys.argv[1]).parent.iterdir())) == 1:  # the checkpoint is there, and this is a step after it
        os.kill(os.getpid(), signal.SIGKILL)
    return tests.brighter(images, generator)

torch.set_num_threads(int(sys.argv[2]))
tests.run(tests.DistillOptions(steps=12, checkpoint_every=5, augment=brighter), Path(sys.argv[1]))
"""


def test_a_killed_run_is_resumed_to_the_very_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    command = [sys.executable, "-c", KILLED, str(path), str(torch.get_num_threads())]
    killed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(path, weights_only=True)["state"]["step"] == 5
    options = DistillOptions(steps=12, checkpoint_every=5, augment=brighter)
    assert same(run(options, path), run(options))


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    path, steps = tmp_path / "run.pt", []
    weights = run(checkpoint=path)
    student = rewritten(untrained())
    again = distill(
        untrained(), student, batches(), options=SHORT, checkpoint=path, progress=lambda done, _: steps.append(done)
    )
    assert steps == []
    assert same(weights_of(again.model), weights)
    assert len(again.history) == 12


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "cut": lambda content: content[: len(content) // 2],
    "foreign": lambda _: b"hello",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.pt"
    run(DistillOptions(steps=1), path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(FileError, match=r"run\.pt: got .*; expected a checkpoint\. Delete the file"):
        run(DistillOptions(steps=1), path)


def test_no_flipped_bit_gives_other_weights(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    weights = run(DistillOptions(steps=1), path)
    content = path.read_bytes()
    name = torch.load(path, weights_only=True)["run"]
    refused = 0
    for place in itertools.chain(range(0, len(content), 2000), range(len(content) - 4000, len(content), 50)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
        try:
            state = load_checkpoint(path, name)
        except FileError:
            refused += 1
        else:
            assert state is not None
            # What is taken anew at the end is not what the checkpoint holds.
            assert all(torch.equal(state["student"][key], weights[key]) for key in weights if "norms" not in key)
    assert refused > 50


def test_a_file_of_weights_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "run.pt")
    with pytest.raises(FileError, match="a damaged or foreign file"):
        run(checkpoint=tmp_path / "run.pt")


@pytest.mark.parametrize("other", ["options", "data", "model"])
def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, other: str) -> None:
    path = tmp_path / "run.pt"
    run(DistillOptions(steps=1), path)
    options = DistillOptions(steps=2 if other == "options" else 1)
    data = batches(200 if other == "data" else 400)
    student = rewritten(untrained(), share=0.4 if other == "model" else 0.3)
    with pytest.raises(FileError, match="another model, other data or other options"):
        distill(untrained(), student, data, options=options, checkpoint=path)


def test_an_unwritable_checkpoint_is_found_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="missing"):
        run(DistillOptions(augment=stopping_at(1)), tmp_path / "missing" / "run.pt")


def test_labels_that_are_needed_and_missing_are_refused() -> None:
    with pytest.raises(DataError, match="labels in every batch"):
        run(DistillOptions(label_weight=1.0))


def test_a_student_of_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="with a module 'middle'"):
        distill(nn.Flatten(), rewritten(trained()), batches(), options=SHORT)


def test_outputs_of_another_shape_are_refused() -> None:
    student = SmallNet()
    student.classify = nn.Linear(32, 9)
    with pytest.raises(ModelError, match=r"\[32, 9\].*expected the teacher's"):
        distill(trained(), student, batches(), options=SHORT)


def test_a_teacher_with_nan_weights_is_refused() -> None:
    teacher = copy.deepcopy(trained())
    nn.init.constant_(teacher.classify.weight, math.nan)
    with pytest.raises(ModelError, match="not finite"):
        distill(teacher, rewritten(trained()), batches(), options=SHORT)


def test_a_diverging_run_stops_and_says_what_to_do() -> None:
    wild = DistillOptions(steps=50, optimizer="sgd", learning_rate=1e30, clip=1e30)
    with pytest.raises(ModelError, match="Lower learning_rate"):
        run(wild)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("temperature", 0.0),
        ("learning_rate", math.nan),
        ("feature_weight", -1.0),
        ("warm_up", 1.0),
        ("outputs", "classes"),
        ("optimizer", "adam"),
    ],
)
def test_options_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SeparableError, match=rf"DistillOptions.{name}: got {value}; expected"):
        DistillOptions(**{name: value})


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    options = DistillOptions(steps=100, warm_up=0.1, learning_rate=1.0)
    rates = [options.learning_rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_progress_is_told_step_by_step() -> None:
    seen: list[tuple[int, int]] = []
    student = rewritten(trained())
    distill(trained(), student, batches(), options=SHORT, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(step, 12) for step in range(1, 13)]


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run()
    assert "distilling" in terminal.getvalue()
    assert "12/12" in terminal.getvalue()


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert capfd.readouterr() == ("", "")
