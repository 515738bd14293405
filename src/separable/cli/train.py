"""``separable train``. In: a model's name, labelled data. Out: trained weights, and how often they are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_model

from separable import tune
from separable.cli.arguments import MODEL_HELP, load_data, load_model, model_argument, show, threads_option
from separable.errors import SeparableError
from separable.files import checked_writable, written_whole

DEFAULTS = tune.TrainOptions(label_smoothing=0.1)
DATA_HELP = """Inputs and labels: .npz, .safetensors, a folder of images with a sub-folder for each class, or
package.module:callable."""


@click.command(name="train", epilog=MODEL_HELP, context_settings={"show_default": True})
@model_argument
@click.option("--data", required=True, help=DATA_HELP)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Write the weights here, as .safetensors.")
@click.option("--classes", type=click.IntRange(min=1), help="Of a built-in model; its own number when not given.")
@click.option("--held-out", type=click.FloatRange(0, 1, max_open=True), default=0.1, help="Share to evaluate on.")
@click.option("--limit", type=click.IntRange(min=1), help="Use at most so many inputs.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64)
@click.option("--epochs", type=click.IntRange(min=1), default=DEFAULTS.epochs)
@click.option("--optimizer", type=click.Choice(["adamw", "sgd", "rmsprop"]), default=DEFAULTS.optimizer)
@click.option("--learning-rate", type=float, default=DEFAULTS.learning_rate, help="The highest.")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default=DEFAULTS.schedule)
@click.option("--warm-up", type=float, default=DEFAULTS.warm_up, help="Share of the steps in which the rate rises.")
@click.option("--weight-decay", type=float, default=DEFAULTS.weight_decay, help="Not of depthwise, norms and biases.")
@click.option("--label-smoothing", type=float, default=DEFAULTS.label_smoothing)
@click.option("--average-decay", type=float, default=DEFAULTS.average_decay, help="Of the average of weights; 0: none.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default=DEFAULTS.precision)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="The run is saved here and resumed from here.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=DEFAULTS.checkpoint_every, help="Steps.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="CUDA where there is one, when not given.")
@threads_option
@click.option("--seed", type=click.IntRange(-(2**63), 2**64 - 1), default=0)
def command(reference: str, shape: str | None, as_json: bool, **given: Any) -> None:
    """Train MODEL on labelled --data, and write the weights that it comes to.

    Under torchrun the processes share each batch.
    """
    if given["device"] == "cuda" and not torch.cuda.is_available():
        raise SeparableError("--device", given="cuda", expected="a GPU that PyTorch can use", remedy="Leave it out.")
    for path in (given["out"], given["checkpoint"]):
        if path is not None:
            checked_writable(path)
    options = tune.TrainOptions(**{name: given[name] for name in TRAINING})
    torch.manual_seed(options.seed)  # the weights that it starts from
    model, example = load_model(reference, shape, given["classes"])
    sizes = {"limit": given["limit"], "batch_size": given["batch_size"]}
    data, held_out = load_data(given["data"], example, has_classes=True, **sizes), None
    if given["held_out"]:
        data, held_out = data.split(given["held_out"], options.seed)
    device = given["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    with tune.process_group():
        trained = tune.train(
            model.to(device),
            data,
            options=options,
            evaluate=None if held_out is None else lambda model: tune.accuracy(model, held_out),
            checkpoint=given["checkpoint"],
        )
        is_first = tune.is_first()
    if is_first:
        with written_whole(given["out"]) as path:
            save_model(trained.model, str(path), _names(Path(given["data"])))
        show(trained, as_json)


TRAINING = (
    *("epochs", "optimizer", "learning_rate", "schedule", "warm_up", "weight_decay", "label_smoothing"),
    *("average_decay", "precision", "checkpoint_every", "seed"),
)


def _names(data: Path) -> dict[str, str]:
    """What the file of weights says besides: the names of the classes, where a folder gave them."""
    return {"classes": json.dumps(tune.class_names(data))} if data.is_dir() else {}
