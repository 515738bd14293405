"""What the command line promises: tables or JSON on stdout, errors on stderr with exit code 2, nothing half-written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from separable import cost, demo, pipeline
from separable.cli import main
from separable.cost import Machine
from separable.runtime import load

OWN_MODEL = """
import torch
from torch import nn

def tiny():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers), torch.zeros(1, 3, 8, 8)

def no_example():
    return nn.Conv2d(3, 4, 3)

def no_model():
    return 3

def three():
    return 1, 2, 3

def broken():
    return [][1]

def needs(size):
    return size

def no_number(model):
    return "much"

def inputs():
    return torch.randn(20, 3, 8, 8)

def channels(model):
    return model(torch.zeros(1, 3, 8, 8)).shape[1]
"""


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    out: str
    err: str
    code: int


Run = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in a folder with a model of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "own.py").write_text(OWN_MODEL, encoding="utf-8")
    (tmp_path / "broken.py").write_text("import nowhere", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "own", raising=False)

    def command(*words: str) -> Said:
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        return Said(said.out, said.err, int(ended.value.code or 0))

    return command


def test_count_prints_the_exact_numbers(run: Run) -> None:
    said = run("count", "mobilenet_v1")
    assert "4,231,976" in said.out
    assert "568,740,352" in said.out
    assert (said.err, said.code) == ("", 0)


def test_the_names_that_are_built_in_are_listed(run: Run) -> None:
    said = run("count", "--list")
    assert {"mobilenet_v1", "resnet50"} <= set(said.out.split())
    assert said.code == 0


def test_json_is_machine_readable(run: Run) -> None:
    total = json.loads(run("count", "resnet18", "--json").out)["total"]
    assert (total["macs"], total["parameters"]) == (1_814_073_344, 11_689_512)
    names = [site["name"] for site in json.loads(run("trace", "own:tiny", "--json").out)["sites"]]
    assert names == ["0", "2"]


def test_another_input_size_can_be_given(run: Run) -> None:
    total = json.loads(run("count", "mobilenet_v1", "--input", "1x3x128x128", "--json").out)["total"]
    assert total["macs"] == 186_400_768


def test_shrink_writes_model_plan_and_report(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(20, 3, 8, 8)).astype("float32"))
    files = ("--out", "small.pt2", "--report", "report.html", "--save-plan", "plan.json")
    said = run("shrink", "own:tiny", "--data", "data.npy", "--macs", "0.6", "--steps", "3", *files)
    assert said.code == 0, said.err
    assert "Theory beside practice" in said.out
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".pt2", ".html", ".json")) == [
        "plan.json",
        "report.html",
        "small.pt2",
    ]
    again = run("shrink", "own:tiny", "--data", "own:inputs", "--plan", "plan.json", "--no-distill", "--json")
    assert json.loads(again.out)["plan"] == json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    counted = json.loads(run("count", "small.pt2", "--json").out)["total"]
    assert counted["macs"] == json.loads(again.out)["facts"]["after"]["macs"]


def test_two_processes_write_and_print_once(run: Run, tmp_path: Path) -> None:
    assert run("count", "own:tiny").code == 0  # the model is there
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [
        "shrink",
        "own:tiny",
        "--data",
        "own:inputs",
        "--macs",
        "0.6",
        "--steps",
        "3",
        "--out",
        "small.pt2",
        "--json",
    ]
    done = subprocess.run(
        [*torchrun, "-m", "separable", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["facts"]["after"]["macs"]
        == json.loads(run("count", "small.pt2", "--json").out)["total"]["macs"]
    )


def test_a_metric_is_shown_before_and_after(run: Run) -> None:
    facts = json.loads(run("shrink", "own:tiny", "--macs", "0.6", "--metric", "own:channels", "--json").out)["facts"]
    assert [(metric["name"], metric["before"]) for metric in facts["metrics"]] == [("channels", 16.0)]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("count", "resnet19"), "resnet18"),
        (("explain", "--kernel", "0"), "Setting.kernel"),
        (("explain", "--map", "wide"), "--map"),
        (("explain", "--html", "missing/page.html"), "missing"),
        (("cuont", "resnet18"), "Did you mean 'count'"),
        (("count", "nowhere:model"), "No module 'nowhere'"),
        (("count", "own:tiyn"), "tiny"),
        (("count", "own:no_example"), "--input"),
        (("count", "own:no_model"), "a torch.nn.Module"),
        (("count", "own:three"), "(model, example)"),
        (("count", "own:broken"), "own.py, line"),
        (("count", "own:needs"), "1 required positional argument"),
        (("count", "broken:model"), "No module named 'nowhere'"),
        (("count", ":model"), "package.module:callable"),
        (("count", "..own:tiny"), "package.module:callable"),
        (("count", "own.py"), "package.module:callable"),
        (("count", "resnet18", "--input", "1x3x9999999x9999999"), "fits into memory"),
        (("count", "resnet18", "--input", "1x3x99999999999999999999x8"), "fits into memory"),
        (("compile", "own:tiny", "--threads", "100000"), "--threads"),
        (("bench", "own:tiny", "--engine", "eager", "--batch", "99999999999"), "not enough memory"),
        (("shrink", "own:tiny", "--macs", "0.5", "--data", ""), "no image"),
        (("shrink", "own:tiny", "--macs", "0.5", "--data", "own:broken"), "own.py, line"),
        (("shrink", "own:tiny", "--macs", "0.5", "--metric", "own:broken"), "0 positional arguments"),
        (("shrink", "own:tiny", "--macs", "0.5", "--metric", "own:no_number"), "metric 'no_number'"),
        (("shrink", "own:tiny", "--macs", "0.5", "--report", "/proc/page.html"), "/proc/page.html"),
        (("count", "missing.pt2"), "missing.pt2"),
        (("count", "resnet18", "--input", "1x3xlarge"), "1x3x224x224"),
        (("count", "resnet18", "--input", "1x4x64x64"), "conv1"),
        (("shrink", "own:tiny"), "at least one of latency"),
        (("shrink", "own:tiny", "--latency", "0"), "Budget.latency"),
        (("shrink", "own:tiny", "--latency", "1.5"), "Budget.latency"),
        (("shrink", "own:tiny", "--macs", "-1"), "Budget.macs"),
        (("shrink", "own:tiny", "--macs", "0.0001"), "best"),
        (("shrink", "own:tiny", "--macs", "0.5", "--data", "missing.npy"), "missing.npy"),
        (("shrink", "own:tiny", "--macs", "0.5", "--metric", "own:nothing"), "own:nothing"),
        (("shrink", "own:tiny", "--macs", "0.5", "--plan", "plan.json"), "not both"),
        (("shrink", "own:tiny", "--plan", "missing.json"), "missing.json"),
        (("shrink", "own:tiny", "--macs", "0.5", "--limit", "0"), "--limit"),
    ],
)
def test_a_wrong_word_is_one_clear_error_with_exit_code_2(run: Run, words: tuple[str, ...], complaint: str) -> None:
    said = run(*words)
    assert complaint in said.err
    assert (said.out, said.code) == ("", 2)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("option", ["--out", "--report", "--save-plan", "--checkpoint"])
def test_an_unwritable_path_is_found_before_the_work(run: Run, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "shrink", lambda *_, **__: pytest.fail("the work was begun"))
    said = run("shrink", "own:tiny", "--macs", "0.5", option, "missing/file")
    assert "missing" in said.err
    assert said.code == 2


def test_a_metric_that_fails_is_found_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "price", lambda *_, **__: pytest.fail("the work was begun"))
    assert run("shrink", "own:tiny", "--macs", "0.5", "--metric", "own:broken").code == 2


def test_a_stream_that_knows_few_characters_is_given_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with io.TextIOWrapper(io.BytesIO(), encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run("count", "own:tiny").code == 0
        assert "3?16 3×3 on 8×8".encode("latin-1") in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_full_disk_is_one_clear_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.stdout, "write", full)
    said = run("count", "own:tiny")
    assert "No space left on device" in said.err
    assert said.code == 2


def test_ctrl_c_leaves_no_file_and_no_traceback(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "count", interrupted)  # counted when the work is nearly done
    before = set(tmp_path.rglob("*"))
    said = run("shrink", "own:tiny", "--macs", "0.6", "--out", "small.pt2", "--report", "report.html")
    assert said.code == 130
    assert "Traceback" not in said.err
    assert {path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts} <= before


def test_demo_prints_what_the_demo_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", lambda report: f"shrunk, see {report}")
    assert "shrunk, see report.html" in run("demo").out


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(name="m", cores=1, threads=1, instruction_sets=(), fma_per_s=1e11, bytes_per_s=1e10)
    monkeypatch.setattr(cost, "this_machine", lambda: machine)


@pytest.mark.usefixtures("known_machine")
def test_explain_prints_what_each_form_of_a_convolution_costs(run: Run) -> None:
    words = ("explain", "--c-in", "512", "--c-out", "512", "--map", "14", "--rank", "256", "--terms", "4")
    said = run(*words)
    assert said.code == 0, said.err
    for macs in ("462,422,016", "52,283,392", "154,140,672", "209,133,568"):
        assert macs in said.out
    forms = json.loads(run(*words, "--json").out)["forms"]
    assert [form["macs"] for form in forms[:2]] == [462_422_016, 52_283_392]


@pytest.mark.usefixtures("known_machine")
def test_explain_writes_a_page_with_sliders(run: Run, tmp_path: Path) -> None:
    assert run("explain", "--kernel", "5", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '"kernel": 5' in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_bench_times_both_engines_and_every_step(run: Run) -> None:
    words = ("bench", "resnet_small", "--input", "1x1x8x8", "--threads", "1", "--batch", "2")
    both = json.loads(run(*words, "--json").out)
    assert set(both["timings"]) == {"eager", "separable"}
    one = json.loads(run(*words, "--engine", "eager", "--json").out)
    assert set(one["timings"]) == {"eager"}
    steps = json.loads(run(*words, "--layers", "--json").out)
    assert steps["peak"] > 0
    assert {"name", "what", "seconds", "macs", "bound"} <= set(steps["layers"][0])


def test_compile_says_what_runs_natively(run: Run) -> None:
    said = run("compile", "resnet_small", "--input", "1x1x8x8", "--threads", "1", "--out", "small.safetensors")
    assert "1 native, 0 in PyTorch" in said.out
    assert load("small.safetensors").shapes == (((1, 1, 8, 8),),)
