"""What ``separable train`` promises: weights on disk, a table or JSON, one clear error, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from separable import models, tune
from separable.cli import main

OWN = """
import torch
from torch import nn

def tiny():
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 2)), torch.zeros(1, 1, 6, 6)

def data():
    labels = torch.arange(40) % 2
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)) + 3 * labels.view(-1, 1, 1, 1), labels

def unlabelled():
    return data()[0]

def stream():
    return lambda: iter([data()])
"""
Run = Callable[..., tuple[str, str, int]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``separable train`` in a folder with a model and data of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "own_training.py").write_text(OWN, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "own_training", raising=False)
    images, labels = own_data()
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    save_file({"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, tmp_path / "data.safetensors")

    def command(*words: str) -> tuple[str, str, int]:
        with torch.random.fork_rng(), pytest.raises(SystemExit) as ended:
            main(["train", *words])
        said = capsys.readouterr()
        return said.out, said.err, int(ended.value.code or 0)

    return command


def own_data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Dark images and bright ones."""
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).normal(size=(40, 1, 6, 6))
    return (noise + 3 * labels[:, None, None, None]).astype("float32"), labels


SHORT = ("--epochs", "4", "--batch-size", "9", "--learning-rate", "0.1", "--out", "weights.safetensors")


@pytest.mark.parametrize("data", ["data.npz", "data.safetensors", "own_training:data"])
def test_weights_are_trained_judged_and_written(run: Run, data: str) -> None:
    out, err, code = run("own_training:tiny", "--data", data, *SHORT, "--json")
    assert (err, code) == ("", 0)
    said = json.loads(out)
    assert (said["steps"], said["steps_per_epoch"]) == (16, 4)  # 36 samples are trained on
    assert said["evaluations"][-1] == 1.0
    assert said["losses"][-1] < said["losses"][0]
    import own_training  # type: ignore[import-not-found]

    model, _ = own_training.tiny()
    model.load_state_dict(load_file("weights.safetensors"))
    images, labels = own_data()
    assert tune.accuracy(model, tune.read_batches((images, labels), torch.zeros(1, 1, 6, 6))) > 0.95


def test_a_person_reads_a_sentence(run: Run) -> None:
    out, err, code = run("own_training:tiny", "--data", "data.npz", *SHORT, "--held-out", "0")
    assert (err, code) == ("", 0)
    assert out.startswith("trained for 4 epochs of 4 steps: mean loss")
    assert "evaluated" not in out


def test_the_sub_folders_of_a_folder_are_its_classes(run: Run, tmp_path: Path) -> None:
    for number, (image, label) in enumerate(zip(*own_data(), strict=True)):
        folder = tmp_path / "pictures" / ("dark", "light")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((40 * image[0] + 60).clip(0, 255).astype("uint8")).save(folder / f"{number}.png")
    out, err, code = run("own_training:tiny", "--data", "pictures", *SHORT, "--json")
    assert (err, code) == ("", 0)
    assert json.loads(out)["evaluations"][-1] == 1.0
    with safe_open("weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == ["dark", "light"]
    Image.new("L", (6, 6)).save(tmp_path / "pictures" / "stray.png")
    assert "stray.png, in no class" in run("own_training:tiny", "--data", "pictures", *SHORT)[1]


def test_a_built_in_model_gets_the_classes_and_the_size_that_are_asked_for(run: Run) -> None:
    np.savez("zeros.npz", images=np.zeros((6, 1, 16, 16), "float32"), labels=np.arange(6) % 3)
    words = ("--input", "1x1x16x16", "--classes", "3", "--epochs", "1", "--batch-size", "3", "--held-out", "0")
    _, err, code = run("resnet_small", "--data", "zeros.npz", *words, "--out", "weights.safetensors")
    assert (err, code) == ("", 0)
    models.resnet_small(classes=3).load_state_dict(load_file("weights.safetensors"))


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("own_training:tiny", "--data", "data.npz", *SHORT)
    assert run(*words)[2] == 0
    whole = load_file("weights.safetensors")
    Path("weights.safetensors").unlink()
    judge = tune.accuracy

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt  # after the first epoch

    monkeypatch.setattr(tune, "accuracy", interrupted)
    saved = ("--checkpoint", "run.pt", "--checkpoint-every", "3")
    out, err, code = run(*words, *saved)
    assert (out, code) == ("", 130)
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not Path("weights.safetensors").exists()
    assert torch.load("run.pt", weights_only=True)["state"]["step"] == 3
    monkeypatch.setattr(tune, "accuracy", judge)
    assert run(*words, *saved)[2] == 0
    again = load_file("weights.safetensors")
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_two_processes_come_to_the_weights_of_one_and_one_of_them_writes(run: Run, tmp_path: Path) -> None:
    words = ("own_training:tiny", "--data", "data.npz", *SHORT, "--batch-size", "8", "--threads", "1")
    assert run(*words)[2] == 0
    alone = load_file("weights.safetensors")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "separable", "train")
    source = str(Path(tune.__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, *torchrun, *words[:-4], "--batch-size", "8", "--threads", "1", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 16
    together = load_file("weights.safetensors")
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("own_training:tiny", "--data", "missing.npz", *SHORT), "missing.npz"),
        (("own_training:tiny", "--data", "own_training:unlabelled", *SHORT), "inputs alone"),
        (("own_training:tiny", "--data", "own_training:stream", *SHORT), "Give data that has a length"),
        (("own_training:tiny", "--data", "own_training:nothing", *SHORT), "own_training:nothing"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--input", "1x1x7x7"), "float32[n, 1, 7, 7]"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--classes", "3"), "with a built-in model only"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--seed", "99999999999999999999"), "--seed"),
        pytest.param(
            ("own_training:tiny", "--data", "data.npz", *SHORT, "--device", "cuda"),
            "a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--held-out", "0.001"), "at least one sample in either"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--learning-rate", "-1"), "TrainOptions.learning_rate"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--optimizer", "adam"), "--optimizer"),
        (("own_training:tiny", "--data", "data.npz"), "--out"),
        (("own_training:tiny", "--out", "weights.safetensors"), "--data"),
        (("own_training:tiny", "--data", "data.npz", *SHORT, "--checkpoint", "data.npz"), "expected a checkpoint"),
    ],
)
def test_a_wrong_word_is_one_clear_error_with_exit_code_2(run: Run, words: tuple[str, ...], complaint: str) -> None:
    out, err, code = run(*words)
    assert complaint in err
    assert (out, code) == ("", 2)
    assert "Traceback" not in err
    assert not Path("weights.safetensors").exists()


def test_a_label_that_is_no_class_is_refused(run: Run) -> None:
    images, labels = own_data()
    np.savez("data.npz", images=images, labels=labels + 1)
    _, err, code = run("own_training:tiny", "--data", "data.npz", *SHORT)
    assert "labels: got 2; expected 0 to 1" in err
    assert code == 2


@pytest.mark.parametrize("option", ["--out", "--checkpoint"])
def test_an_unwritable_path_is_found_before_the_work(run: Run, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "train", lambda *_, **__: pytest.fail("the work was begun"))
    _, err, code = run("own_training:tiny", "--data", "data.npz", *SHORT, option, "missing/file")
    assert "missing" in err
    assert code == 2
