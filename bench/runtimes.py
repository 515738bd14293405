"""One network in one runtime, in a process of its own. In: runtime, exported network, threads. Out: seconds a forward.

Protocol: it prints ``ready`` with the largest difference from PyTorch's output, then answers every line on standard
input, a number of forwards, with the seconds that they took. Started by ``engine.py`` and ``realised.py``.
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

    model = torch.export.load(path).module(check_guards=False)
    torch.set_num_threads(threads)
    program = separable.engine.compile(_Frozen(model), torch.from_numpy(x), threads=threads)
    tensor = torch.from_numpy(x)
    return lambda: program(tensor).numpy()


def _Frozen(model: object) -> object:  # noqa: N802 - it stands for a class of torch, which only some runtimes import
    """An exported module as one that is in inference mode: exported modules have no eval()."""
    import torch

    class Frozen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model
            for module in self.modules():
                module.training = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)  # type: ignore[operator, no-any-return]

    return Frozen()


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


def executorch(path: Path, x: np.ndarray, threads: int) -> Forward:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.extension.threadpool import threadpool  # type: ignore[import-not-found]

    threadpool._unsafe_reset_threadpool(threads)
    return _executorch(path, x, portable_lib, torch)


def _executorch(path: Path, x: np.ndarray, portable_lib: object, torch: object) -> Forward:
    module = portable_lib._load_for_executorch(str(_pte(path)))  # type: ignore[attr-defined]
    tensor = torch.from_numpy(x)  # type: ignore[attr-defined]
    return lambda: module.forward([tensor])[0].numpy()


def executorch_default(path: Path, x: np.ndarray, threads: int) -> Forward:
    """XNNPACK with as many threads as the process may use: ``engine.py`` binds it to that many cores."""
    import torch
    from executorch.extension.pybindings import portable_lib

    if len(os.sched_getaffinity(0)) != threads:
        raise SystemExit(f"bound to {len(os.sched_getaffinity(0))} cores, not {threads}")
    return _executorch(path, x, portable_lib, torch)


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
    "xnnpack": executorch_default,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "inductor": inductor,
    "eager": eager,
}


def main() -> None:
    name, path, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    arrays = np.load(path.with_suffix(".npz"))
    x, expected = arrays["x"], arrays["y"]
    begin = time.perf_counter()
    forward = RUNTIMES[name](path, x, threads)
    got = forward()
    first = time.perf_counter() - begin
    error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
    print("ready", error, first, flush=True)
    for line in sys.stdin:
        count = int(line)
        begin = time.perf_counter()
        for _ in range(count):
            forward()
        spent = time.perf_counter() - begin
        print(spent / count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


if __name__ == "__main__":
    main()
