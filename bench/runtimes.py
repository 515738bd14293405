"""Networks in one runtime, in a process of its own. In: runtime, threads, exported networks. Out: seconds a forward.

Protocol, a line each way: ``load 0`` prepares the first network and is answered with the relative difference from
PyTorch's output and the seconds until the first one; ``run 0 20`` is answered with the mean seconds of 20 forwards and
the most bytes that the process has held. Started by ``engine.py`` and ``realised.py``.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Forward = Callable[[], np.ndarray]


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
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

    def run() -> np.ndarray:
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


def _onnx(path: Path, x: np.ndarray) -> Path:
    target = path.with_suffix(".onnx")
    if not target.exists():
        import torch

        torch.onnx.export(torch.export.load(path), (torch.from_numpy(x),), str(target), dynamo=True)
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
    "inductor": inductor,
    "eager": eager,
}


def main() -> None:
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
            error = float(np.linalg.norm(got - arrays["y"]) / np.linalg.norm(arrays["y"]))
            print("answer", error, first, flush=True)
        else:
            forward, count = forwards[which], int(numbers[1])
            begin = time.perf_counter()
            for _ in range(count):
                forward()
            spent = time.perf_counter() - begin
            print("answer", spent / count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
