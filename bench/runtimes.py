"""Networks in one runtime, in a process of its own. In: runtime, threads, exported networks. Out: seconds a forward.

Protocol, a line each way: ``load 0`` prepares the first network and is answered with the relative difference from
PyTorch's output and the seconds until the first one; ``run 0 20`` is answered with the mean seconds of 20 forwards;
``turns 0 100 6`` takes forwards and the processor's peak in turns, 100 times or for 6 seconds, and is answered with the
seconds of each: peak, forward, peak, forward, …, peak. What a peer needs in a form of its own was written before, by
``prepare``. Started by ``engine.py`` and ``realised.py``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Forward = Callable[[], np.ndarray]
PEAK_MACS = 230_400_000


def separable_engine(path: Path, x: np.ndarray, threads: int) -> Forward:
    import torch

    import separable.engine

    torch.set_num_threads(threads)
    model = torch.export.load(path).module(check_guards=False)
    for module in model.modules():
        module.training = False  # an exported module has no eval()
    tensor = torch.from_numpy(x)
    program = separable.engine.compile(model, tensor, threads=threads)
    return lambda: program(tensor).numpy()


def eager(path: Path, x: np.ndarray, threads: int) -> Forward:
    import torch

    torch.set_num_threads(threads)
    model = torch.export.load(path).module(check_guards=False).to(memory_format=torch.channels_last)
    tensor = torch.from_numpy(x).to(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(tensor).numpy()

    return run


def inductor(path: Path, x: np.ndarray, threads: int) -> Forward:
    import torch
    import torch._inductor.config

    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    model = torch.compile(torch.export.load(path).module(check_guards=False))
    tensor = torch.from_numpy(x)

    def run() -> np.ndarray:
        with torch.no_grad():
            return model(tensor).numpy()

    return run


def onnxruntime(path: Path, x: np.ndarray, threads: int) -> Forward:
    """All optimisations and spinning threads are its defaults."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(_onnx(path, x)), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0]


def openvino(path: Path, x: np.ndarray, threads: int) -> Forward:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(str(_onnx(path, x))), "CPU", settings)
    request = compiled.create_infer_request()
    shared = openvino.Tensor(x, shared_memory=True)

    def run() -> np.ndarray:
        request.set_input_tensor(shared)  # each time: it does not keep the array alive by itself
        request.infer()
        return request.get_output_tensor().data

    return run


def xnnpack(path: Path, x: np.ndarray, threads: int) -> Forward:
    """ExecuTorch takes as many threads as the process has cores: who starts it binds it to so many."""
    import torch
    from executorch.extension.pybindings import portable_lib

    if len(os.sched_getaffinity(0)) != threads:
        raise SystemExit(f"bound to {len(os.sched_getaffinity(0))} cores, not {threads}")
    module = portable_lib._load_for_executorch(str(_pte(path)))
    tensor = torch.from_numpy(x)
    return lambda: module.forward([tensor])[0].numpy()


def ncnn(path: Path, x: np.ndarray, threads: int) -> Forward:
    """One image at a time: it knows no batch. Packed layouts, Winograd and matrix products are its defaults."""
    import ncnn as peer

    net = peer.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    folder = _pnnx(path, x)
    net.load_param(str(folder / "net.ncnn.param"))
    net.load_model(str(folder / "net.ncnn.bin"))
    images = [peer.Mat(image).clone() for image in x]  # a Mat does not keep the array alive

    def one(image: object) -> np.ndarray:
        with net.create_extractor() as extractor:
            extractor.input("in0", image)
            return np.array(extractor.extract("out0")[1])

    return lambda: np.stack([one(image) for image in images])


def mnn(path: Path, x: np.ndarray, threads: int) -> Forward:
    """In full float32."""
    import MNN.expr
    import MNN.nn

    settings = {"precision_mode": MNN.expr.PrecisionMode.High, "thread_num": threads}
    module = MNN.nn.load_module_from_file(str(_mnn(path, x)), ["x"], ["y"], **settings)
    given = MNN.expr.const(x, list(x.shape), MNN.expr.NCHW)
    return lambda: np.array(module.onForward([given])[0].read())


def peak(_: Path, __: np.ndarray, threads: int) -> Forward:
    """``PEAK_MACS`` multiply-adds in registers only."""
    from separable.kernels.isa import host
    from separable.kernels.peak import peak_loop

    run, macs = peak_loop(host(), threads)

    def many() -> np.ndarray:
        for _ in range(PEAK_MACS // macs):
            run()
        return np.zeros(1)

    return many


def turns(forward: Forward, threads: int, rounds: int, seconds: float) -> list[float]:
    """Forwards between loops of multiply-adds, some milliseconds each: neighbours run at one clock."""
    loop, samples, begin = peak(Path(), np.zeros(0), threads), [], time.perf_counter()
    loop()
    times = max(1, int(_seconds(loop, 1) / _seconds(forward, 1)))
    while len(samples) < 2 * rounds and time.perf_counter() < begin + seconds:
        samples += [_seconds(loop, 1), _seconds(forward, times)]
    return [*samples, _seconds(loop, 1)]


def _seconds(forward: Forward, times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        forward()
    return (time.perf_counter() - begin) / times


def prepare(path: Path, names: list[str]) -> None:
    """Writes the network in the forms that these runtimes read, where they are not written yet."""
    x = np.load(path.with_suffix(".npz"))["x"]
    if {"onnxruntime", "openvino"} & set(names):
        _onnx(path, x)
    if "mnn" in names:
        _mnn(path, x)
    if "xnnpack" in names:
        _pte(path)
    if "ncnn" in names:
        _pnnx(path, x)


def _pnnx(path: Path, x: np.ndarray) -> Path:
    """The network for one image: that of a batch holds its size in its reshapes."""
    path = path.with_name(f"{path.stem.removesuffix(f'-{len(x)}')}-1.pt2") if len(x) > 1 else path
    folder = path.with_suffix("")
    if not (folder / "net.ncnn.bin").exists():
        folder.mkdir(exist_ok=True)
        shutil.copy(_onnx(path, x[:1]), folder / "net.onnx")
        shape = ",".join(map(str, (1, *x.shape[1:])))
        command = [str(Path(sys.executable).with_name("pnnx")), "net.onnx", f"inputshape=[{shape}]", "fp16=0"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def _mnn(path: Path, x: np.ndarray) -> Path:
    """By the converter's library: its command installs a package by itself and reports to its makers."""
    target = path.with_suffix(".mnn")
    if not target.exists():
        import _tools

        _tools.mnnconvert(["", "-f", "ONNX", "--modelFile", str(_onnx(path, x)), "--MNNModel", str(target)])
    return target


def _onnx(path: Path, x: np.ndarray) -> Path:
    target = path.with_suffix(".onnx")
    if not target.exists():
        import torch

        names = {"input_names": ["x"], "output_names": ["y"]}
        program, example = torch.export.load(path), (torch.from_numpy(x),)
        torch.onnx.export(program, example, str(target), dynamo=True, external_data=False, **names)
    return target


def _pte(path: Path) -> Path:
    target = path.with_suffix(".pte")
    if not target.exists():
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        edge = to_edge_transform_and_lower(torch.export.load(path), partitioner=[XnnpackPartitioner()])
        target.write_bytes(edge.to_executorch().buffer)
    return target


RUNTIMES: dict[str, Callable[[Path, np.ndarray, int], Forward]] = {
    "separable": separable_engine,
    "xnnpack": xnnpack,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "ncnn": ncnn,
    "mnn": mnn,
    "inductor": inductor,
    "eager": eager,
    "peak": peak,
}


def main() -> None:
    if sys.argv[1] == "prepare":
        for path in sys.argv[3:]:
            prepare(Path(path), sys.argv[2].split(","))
        return
    name, threads, paths = sys.argv[1], int(sys.argv[2]), [Path(p) for p in sys.argv[3:]]
    forwards: dict[int, Forward] = {}
    for line in sys.stdin:
        verb, *numbers = line.split()
        which = int(numbers[0])
        if verb == "load":
            arrays = np.load(paths[which].with_suffix(".npz"))
            begin = time.perf_counter()
            forwards[which] = RUNTIMES[name](paths[which], arrays["x"], threads)
            got = forwards[which]()
            first = time.perf_counter() - begin
            expected = arrays["y"]
            error = 0.0 if name == "peak" else float(np.linalg.norm(got.ravel() - expected.ravel()))
            print("answer", error / float(np.linalg.norm(expected)), first, flush=True)
        elif verb == "turns":
            print("answer", *turns(forwards[which], threads, int(numbers[1]), float(numbers[2])), flush=True)
        else:
            print("answer", _seconds(forwards[which], int(numbers[1])), flush=True)


if __name__ == "__main__":
    main()
