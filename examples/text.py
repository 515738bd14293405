"""Teaches a network to find what is broken in customers' messages. In: options. Out: its accuracy beside baselines'.

python examples/text.py    under two minutes on one core
"""

from __future__ import annotations

import click
import numpy as np
import torch
from lessons import Lesson, Split, accuracy, logistic_regression, macs, majority, taught
from torch import Tensor

from separable import models
from separable.models import encode_text

# Every message names all of them, one as broken: which letters it has says nothing about which one.
PARTS = ("screen", "battery", "camera", "speaker")
BROKEN = ("is broken", "does not work", "is dead", "is not fine")
FINE = ("is fine", "works well", "is not broken", "is not dead")
OPENINGS = ("", "hello, ", "good morning. ", "dear shop, ", "i need help: ")
ENDINGS = ("", ". please help", ". thank you", ". what now?", "!")
JOINTS = (", ", ", ", " and ", " but ", " while ", ". ")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def message(broken: int, generator: np.random.Generator) -> str:
    """A message in which the part of that number is broken, and the others are fine, with a typing error or so."""
    clauses = []
    for index in generator.permutation(len(PARTS)):
        said = generator.choice(BROKEN if index == broken else FINE)
        clauses.append(f"{generator.choice(('the', 'my', 'its'))} {PARTS[index]} {said}")
    text = clauses[0] + "".join(f"{generator.choice(JOINTS)}{clause}" for clause in clauses[1:])
    text = f"{generator.choice(OPENINGS)}{text}{generator.choice(ENDINGS)}"
    return mistyped(text, 0.02, generator)


def mistyped(text: str, share: float, generator: np.random.Generator) -> str:
    """The text with that share of its letters left out, doubled, replaced, or exchanged with the next."""
    letters = list(text)
    for index in np.flatnonzero(generator.random(len(letters)) < share):
        kind = generator.integers(4)
        if kind == 3 and index + 1 < len(letters):
            letters[index], letters[index + 1] = letters[index + 1], letters[index]
        else:
            letters[index] = ("", letters[index] * 2, generator.choice(list(LETTERS)), "")[kind]
    return "".join(letters)


def draw(count: int, seed: int) -> tuple[list[str], Tensor]:
    """``count`` messages and which part is broken in each, the same for the same seed."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(PARTS), size=count)
    return [message(int(label), generator) for label in labels], torch.from_numpy(labels)


def learn(
    *, messages: int = 3000, test_messages: int = 1000, epochs: int = 6, width: int = 32, seed: int = 0
) -> Lesson:
    """Train on messages, and examine on others."""
    (texts, labels), (test_texts, test_labels) = draw(messages, seed), draw(test_messages, seed + 1_000_000)
    length = max(len(text.encode()) for text in (*texts, *test_texts))
    split = Split(
        inputs=encode_text(texts, length),
        labels=labels,
        test_inputs=encode_text(test_texts, length),
        test_labels=test_labels,
    )
    torch.manual_seed(seed)
    model = models.separable_text(width, len(PARTS))
    trained = taught(model, split, epochs=epochs, seed=seed)
    pairs = [letter_pairs(part) for part in (split.inputs, split.test_inputs)]
    return Lesson(
        model=trained,
        network=type(trained).__name__,
        accuracy=accuracy(trained, split.test_inputs, test_labels),
        baselines={
            "one part for all": majority(split),
            "logistic regression on letters": logistic_regression(
                letters(split.inputs), letters(split.test_inputs), split
            ),
            "logistic regression on pairs of letters": logistic_regression(*pairs, split),
        },
        macs=macs(model, split.inputs),
        standard_macs=macs(models.separable_text(width, len(PARTS), standard=True), split.inputs),
    )


def letters(codes: Tensor) -> Tensor:
    """How often each symbol occurs in texts (n, w): (n, 128)."""
    return torch.zeros(len(codes), 128).scatter_add_(1, codes, torch.ones(codes.shape))


def letter_pairs(codes: Tensor) -> Tensor:
    """How often each symbol follows each other one, for the 32 values that letters leave modulo 32: (n, 1024)."""
    places = codes[:, :-1] % 32 * 32 + codes[:, 1:] % 32
    return torch.zeros(len(codes), 1024).scatter_add_(1, places, torch.ones(places.shape))


@click.command(help=__doc__.splitlines()[0])
@click.option("--messages", default=3000, show_default=True, help="How many messages to learn from.")
@click.option("--epochs", default=6, show_default=True)
@click.option("--width", default=32, show_default=True, help="Channels in the first block.")
@click.option("--seed", default=0, show_default=True)
def main(messages: int, epochs: int, width: int, seed: int) -> None:
    click.echo(learn(messages=messages, epochs=epochs, width=width, seed=seed))
    click.echo(f"one of the messages: {draw(1, seed)[0][0]!r}")


if __name__ == "__main__":
    main()
