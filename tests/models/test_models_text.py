"""The text network: padding that changes nothing, costs by hand, and messages that single letters cannot tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from separable import cost, models
from separable.errors import DataError, SpecError
from separable.models import encode_text
from separable.nn import fold_batch_norm
from separable.pipeline import ShrinkOptions, shrink
from separable.spec import Budget

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
TEXTS = ["a text", "another, longer text", "x"]


def network(**options: object) -> nn.Module:
    torch.manual_seed(0)
    return models.separable_text(width=8, classes=3, **options).double()


def test_symbols_are_the_bytes_plus_one_and_zero_behind_the_end() -> None:
    codes = encode_text(["hé", "a"])
    assert codes.tolist() == [[ord("h") + 1, 0xC3 + 1, 0xA9 + 1], [ord("a") + 1, 0, 0]]
    assert codes.dtype == torch.int64
    assert encode_text(["a"], length=5).shape == (1, 5)


def test_each_text_of_a_batch_gives_what_it_gives_alone() -> None:
    model = network().eval()
    together = model(encode_text(TEXTS))
    for text, logits in zip(TEXTS, together, strict=True):
        torch.testing.assert_close(model(encode_text([text]))[0], logits)


def test_in_training_too_padding_further_changes_neither_logits_nor_gradients_nor_statistics() -> None:
    outcomes = []
    for length in (20, 37):
        model = network().train()
        logits = model(encode_text(TEXTS, length))
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        outcomes.append([logits, *(p.grad for p in model.parameters()), *model.buffers()])
    for short, long in zip(*outcomes, strict=True):
        torch.testing.assert_close(short, long)


def test_the_order_of_the_letters_counts() -> None:
    model = network().eval()
    forwards, backwards = model(encode_text(["abcdefgh", "hgfedcba"]))
    assert (forwards - backwards).abs().max() > 1e-3


def test_an_empty_text_gives_the_bias_of_the_classifier() -> None:
    model = network().eval()
    nn.init.normal_(model.classifier.bias)
    torch.testing.assert_close(model(torch.zeros(1, 9, dtype=torch.int64))[0], model.classifier.bias)


@pytest.mark.parametrize("standard", [False, True])
def test_it_costs_what_its_layers_add_up_to(standard: bool) -> None:
    model = models.separable_text(width=8, classes=3, blocks=2, standard=standard)
    first, second = (5 * 8 * 8, 5 * 8 * 16 + 5 * 16 * 16) if standard else (8 * (5 + 8), 8 * (5 + 16) + 16 * (5 + 16))
    # 20 letters, 10 behind the stride: two convolutions and a 1×1 in each block, and 16·3 for the classes.
    macs = 20 * (2 * first + 8 * 8) + 10 * (second + 8 * 16) + 16 * 3
    parameters = 257 * 8 + (2 * first + 8 * 8 + 3 * 2 * 8) + (second + 8 * 16 + 3 * 2 * 16) + 16 * 3 + 3
    total = cost.count(model, models.example(model, resolution=20)).total
    assert (total.macs, total.parameters) == (macs, parameters)


def test_an_example_is_made_of_symbols_that_are_no_end() -> None:
    codes = models.example("separable_text", batch=3, resolution=50)
    assert codes.shape == (3, 50)
    assert codes.dtype == torch.int64
    assert codes.min() >= 1
    assert codes.max() <= 256


def test_it_exports_for_any_batch_and_length_and_takes_autocast() -> None:
    model, x = network().float().eval(), encode_text(TEXTS)
    shapes = ({0: torch.export.Dim("n", min=2), 1: torch.export.Dim("w", min=8, max=1000)},)
    exported, more = torch.export.export(model, (x,), dynamic_shapes=shapes), encode_text([*TEXTS, "y"], 33)
    with torch.no_grad():
        exact = model(more)
        torch.testing.assert_close(exported.module()(more), exact)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(more)
    assert float((y.float() - exact).norm() / exact.norm()) < 0.1


def test_its_batch_norms_fold_away() -> None:
    model, codes = network(), encode_text(TEXTS)
    model(codes)  # so that the running statistics are not those that change nothing
    folded = fold_batch_norm(model.eval())
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in folded.modules())
    torch.testing.assert_close(folded(codes), model(codes))


@pytest.mark.usefixtures("clock")
def test_it_shrinks_under_a_budget() -> None:
    model, x = network().float().eval(), models.example("separable_text", batch=8, resolution=40)
    shrunk = shrink(model, x, x, Budget(macs=0.8), options=ShrinkOptions(distill=None, progress=False))
    assert cost.count(shrunk.model, x).total.macs <= 0.8 * cost.count(model, x).total.macs


@pytest.mark.parametrize(
    ("make", "error", "complaint"),
    [
        (lambda: encode_text("text"), DataError, "expected a list of at least one text"),
        (lambda: encode_text([]), DataError, "expected a list of at least one text"),
        (lambda: encode_text(["a", ""]), DataError, "text 1: got 0 bytes; expected at least one"),
        (lambda: encode_text(["long"], 3), DataError, r"text 0: got 4 bytes; expected at most length \(=3\)"),
        (lambda: network()(torch.zeros(2, 9)), SpecError, r"float32 of shape \(2, 9\); .* encode_text makes"),
        (lambda: network()(torch.ones(9, dtype=torch.int64)), SpecError, r"shape \(9,\); expected int64 \(n, w\)"),
        (lambda: network()(torch.ones(2, 0, dtype=torch.int64)), SpecError, r"shape \(2, 0\)"),
        (lambda: models.separable_text(blocks=0), SpecError, r"blocks \(=0\)"),
    ],
)
def test_sizes_and_inputs_that_do_not_fit_are_named(make: object, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        make()


def test_it_learns_what_neither_letters_nor_pairs_of_letters_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("text", None)
    import text

    lesson = text.learn(messages=800, epochs=7, width=16, test_messages=300)
    assert max(lesson.baselines.values()) < 0.4
    assert lesson.accuracy > 0.8
