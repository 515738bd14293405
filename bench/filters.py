"""Image filters against OpenCV and others. In: sizes, types, kernels. Out: JSON and a table, losses included.

Every peer runs on 2 threads where it can, with the same border, type and kernel, into memory that lies ready where it
takes any, in turns within one run, in another order each round: threads that still wait for work and cores that slept
are then not always met by the same peer. Before each sample of a call below 50 ms the same call is made once without
being timed: of a small image the time was else that of the peer before, which leaves caches, clocks and threads to the
next one as it likes (the first one after dask-image took three times as long as it does alone, ours or OpenCV's). Peers
whose one call lasts longer than the limit are run once or left out, and that is said. Peak memory of the largest
case is that of a process of its own. Run from the repository:

    python bench/filters.py --out bench/results/filters.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import dask
import dask.array as da
import dask_image.ndfilters
import numpy as np
import scipy.ndimage
import skimage.filters
import torch

from separable.cost import this_machine
from separable.filters.apply import apply
from separable.filters.terms import Term, Terms

THREADS = 2
SIZES, TYPES = (512, 2048, 8192), ("float32", "uint8")
LENGTHS = (3, 5, 7, 15, 31, 63, 131)
PACKAGES = ("opencv-python-headless", "scipy", "scikit-image", "torch", "dask-image", "numpy")
LARGEST = (16860, 10750)
UNTIMED_BELOW_S = 0.05


def gaussian(length: int) -> np.ndarray:
    """As OpenCV's, sigma a sixth of the length, in float64."""
    return cv2.getGaussianKernel(length, length / 6, cv2.CV_64F).ravel()


def contestants(image: np.ndarray, length: int) -> dict[str, Callable[[], object]]:
    """The same Gaussian blur by everybody: reflected border, the image's type."""
    row, sigma = gaussian(length), length / 6
    terms = Terms(terms=(Term(kernels=(row, row)),))
    out, other = np.zeros_like(image), np.zeros_like(image)
    found: dict[str, Callable[[], object]] = {
        "separable": lambda: apply(image, terms, "reflect", out=out),
        "cv2.sepFilter2D": lambda: cv2.sepFilter2D(image, -1, row, row, dst=other, borderType=cv2.BORDER_REFLECT),
        "cv2.GaussianBlur": lambda: cv2.GaussianBlur(
            image, (length, length), sigma, dst=other, borderType=cv2.BORDER_REFLECT
        ),
        "copy, torch": lambda: torch.from_numpy(other).copy_(torch.from_numpy(image)),
        "copy, numpy": lambda: np.copyto(other, image),
    }
    truncate = (length // 2) / sigma
    found["scipy.ndimage"] = lambda: scipy.ndimage.gaussian_filter(image, sigma, truncate=truncate, output=other)
    if image.dtype == np.float32:
        weight = torch.from_numpy(np.outer(row, row)).float()[None, None]
        pad = torch.nn.ReflectionPad2d(length // 2)  # torch has no border that repeats the edge pixel
        found["scikit-image"] = lambda: skimage.filters.gaussian(
            image, sigma, truncate=truncate, mode="reflect", out=other
        )
        found["torch k×k"] = lambda: torch.nn.functional.conv2d(pad(torch.from_numpy(image)[None, None]), weight)
        chunks = max(256, image.shape[0] // 2)
        found["dask-image"] = lambda: dask_image.ndfilters.gaussian_filter(
            da.from_array(image, chunks=chunks), sigma, truncate=truncate
        ).compute(num_workers=THREADS)
    return found


def sobels(image: np.ndarray) -> dict[str, Callable[[], object]]:
    """A derivative: float32 to float32, uint8 to int16."""
    terms = Terms(terms=(Term(kernels=(np.array([1, 2, 1]), np.array([-1, 0, 1]))),))
    kind, depth = (np.int16, cv2.CV_16S) if image.dtype == np.uint8 else (np.float32, cv2.CV_32F)
    out, other = np.zeros(image.shape, kind), np.zeros(image.shape, kind)
    return {
        "separable": lambda: apply(image, terms, "reflect", out=out),
        "cv2.Sobel": lambda: cv2.Sobel(image, depth, 1, 0, dst=other, ksize=3, borderType=cv2.BORDER_REFLECT),
    }


def race(runs: dict[str, Callable[[], object]], budget_s: float, limit_s: float) -> dict[str, list[float]]:
    """Samples in turns. A peer that needs more than ``limit_s`` has its first sample only."""
    samples: dict[str, list[float]] = {}
    for name, run in runs.items():
        samples[name] = [_seconds(run)]
        if samples[name][0] < limit_s:
            samples[name] = [_seconds(run)]
    rounds = [name for name in runs if samples[name][0] < limit_s]
    cost = sum(samples[name][0] * (1 + (samples[name][0] < UNTIMED_BELOW_S)) for name in rounds)
    orders = random.Random(0)
    for _ in range(int(min(40, max(3, budget_s / cost)))):
        orders.shuffle(rounds)
        for name in rounds:
            if samples[name][0] < UNTIMED_BELOW_S:
                runs[name]()
            samples[name].append(_seconds(runs[name]))
    return samples


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def is_too_slow(name: str, size: int, length: int, dtype: str) -> bool:
    """Peers whose one call would take longer than about two seconds, from their cost a pixel and tap."""
    pixels = size * size
    if name == "torch k×k":
        return pixels * length**2 > 1.2e9
    if name in ("scipy.ndimage", "scikit-image", "dask-image"):
        return pixels * length > (2.2e8 if dtype == "float32" else 1.1e8)
    return False


def difference(image: np.ndarray, length: int) -> dict[str, float]:
    """The largest difference from scipy in float64, ours and OpenCV's."""
    row = gaussian(length)
    image = image[:512, :512]
    exact = scipy.ndimage.correlate1d(image.astype(np.float64), row, 0)
    exact = scipy.ndimage.correlate1d(exact, row, 1)
    ours = apply(image, Terms(terms=(Term(kernels=(row, row)),)))
    blur = cv2.GaussianBlur(image, (length, length), length / 6, borderType=cv2.BORDER_REFLECT)
    separate = cv2.sepFilter2D(image, -1, row, row, borderType=cv2.BORDER_REFLECT)
    return {
        name: float(np.abs(got - exact).max())
        for name, got in (("separable", ours), ("cv2.GaussianBlur", blur), ("cv2.sepFilter2D", separate))
    }


WRITE = """
import sys
import numpy as np
from pathlib import Path
from separable.filters import files
shape = {largest}
picture = files.Picture(pixels=np.empty(shape, np.uint8))
with files.written(Path(sys.argv[1]), picture, np.dtype(np.uint8)) as target:
    for y in range(0, shape[0], 1024):
        part = target[y : y + 1024].shape
        target[y : y + 1024] = np.random.default_rng(y).integers(0, 256, part, np.uint8)
"""
FILTER = """
import sys, time
import numpy as np
from pathlib import Path
from separable.filters import files, stream
from separable.filters.terms import Term, Terms
row = np.exp(-0.5 * (np.arange(-65, 66) / 21.8) ** 2)
row /= row.sum()
recipe = stream.Recipe(kernels=(Terms(terms=(Term(kernels=(row, row)),)),))
picture = files.read(sys.argv[1], "none")
start = time.perf_counter()
with files.written(Path(sys.argv[2]), picture, np.dtype(np.float32)) as target:
    stream.filter_picture(picture, target, recipe)
seconds = time.perf_counter() - start
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(seconds, int(status["VmHWM"].split()[0]) * 1024)
"""


def large() -> dict[str, dict[str, float]]:
    """The largest image, from file to file, by format; the peak memory of the process that filters, all included."""
    import tempfile

    found = {}
    for suffix in (".npy", ".tif", ".zarr"):
        with tempfile.TemporaryDirectory() as folder:
            paths = [f"{folder}/in{suffix}", f"{folder}/out{suffix}"]
            write = [sys.executable, "-c", WRITE.format(largest=LARGEST), paths[0]]
            subprocess.run(write, check=True)
            command = [sys.executable, "-c", FILTER, *paths]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        found[suffix] = {"seconds": float(answer[0]), "peak_bytes": int(answer[1])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS))
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of samples a case")
    parser.add_argument("--limit", type=float, default=1.5, help="a call longer than this is sampled once")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "filters.json")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    dask.config.set(scheduler="threads")
    cases = []
    for size in options.sizes:
        for dtype in TYPES:
            image = (np.random.default_rng(size).random((size, size)) * 255).astype(dtype)
            for length in options.lengths:
                runs = contestants(image, length)
                skipped = [name for name in runs if is_too_slow(name, size, length, dtype)]
                samples = race({n: r for n, r in runs.items() if n not in skipped}, options.budget, options.limit)
                case = {"what": "gaussian", "size": size, "dtype": dtype, "length": length, "samples": samples}
                cases.append({**case, "skipped": skipped, "difference": difference(image, length)})
                print(line(cases[-1]), flush=True)
            samples = race(sobels(image), options.budget / 4, options.limit)
            cases.append({"what": "sobel", "size": size, "dtype": dtype, "length": 3, "samples": samples})
            print(line(cases[-1]), flush=True)
    facts = {
        "machine": str(this_machine()),
        "cores": os.cpu_count(),
        "threads": THREADS,
        "versions": {name: version(name) for name in PACKAGES},
        "large": large(),
        "cases": cases,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(page(facts), encoding="utf-8")


def line(case: dict[str, object]) -> str:
    """One case, medians in milliseconds."""
    medians = ", ".join(f"{name} {statistics.median(s) * 1e3:.3g}" for name, s in case["samples"].items())  # type: ignore[attr-defined]
    return f"{case['what']} {case['size']}² {case['dtype']} {case['length']}: {medians} ms"


def page(facts: dict[str, object]) -> str:
    """The tables and the verdict on each aim."""
    cases = facts["cases"]
    lines = [
        "# Separable filters against others",
        "",
        f"Measured on {facts['machine']}, {facts['threads']} threads, medians of samples taken in turns, in ms; "
        + ", ".join(f"{name} {v}" for name, v in facts["versions"].items())  # type: ignore[attr-defined]
        + ".",
        "Gaussian blur, border reflected, result of the image's type. – : left out, one call takes seconds. "
        "Everybody has the same kernel and border, but PyTorch, whose reflection leaves the edge pixel out.",
        "",
    ]
    for dtype in TYPES:
        chosen = [case for case in cases if case["dtype"] == dtype and case["what"] == "gaussian"]  # type: ignore[attr-defined]
        if not chosen:
            continue
        names = list(max((case["samples"] for case in chosen), key=len))
        lines += [f"## {dtype}", "", "| size | kernel | " + " | ".join(names) + " | × fastest OpenCV | × scipy |"]
        lines.append("|---|---|" + "---|" * (len(names) + 2))
        for case in chosen:
            medians = {name: statistics.median(s) for name, s in case["samples"].items()}
            shown = [f"{medians[n] * 1e3:.3g}" if n in medians else "–" for n in names]
            ratios = [f"{min(medians[n] for n in medians if n.startswith('cv2')) / medians['separable']:.2f}"]
            ratios.append(
                f"{medians['scipy.ndimage'] / medians['separable']:.1f}" if "scipy.ndimage" in medians else "–"
            )
            lines.append(f"| {case['size']}² | {case['length']} | " + " | ".join(shown + ratios) + " |")
        lines.append("")
    return "\n".join([*lines, *verdicts(cases), *sobel_lines(cases), *largest_lines(facts)]) + "\n"  # type: ignore[arg-type]


def verdicts(cases: list[dict[str, object]]) -> list[str]:
    """What was aimed at and what was measured."""
    medians = [
        (case, {name: statistics.median(s) for name, s in case["samples"].items()})  # type: ignore[attr-defined]
        for case in cases
        if case["what"] == "gaussian"
    ]
    lines = ["## Aims", ""]
    for dtype in TYPES:
        against = [
            min(m[n] for n in m if n.startswith("cv2")) / m["separable"]
            for case, m in medians
            if case["dtype"] == dtype
        ]
        scipys = [
            m["scipy.ndimage"] / m["separable"] for c, m in medians if c["dtype"] == dtype and "scipy.ndimage" in m
        ]
        copies = [
            m["separable"] / min(m["copy, torch"], m["copy, numpy"])
            for c, m in medians
            if c["dtype"] == dtype and c["size"] == 8192 and c["length"] <= 7  # type: ignore[operator]
        ]
        if against:
            lines.append(
                f"- {dtype}: {statistics.median(against):.2f}× as fast as the faster of OpenCV's two in the median, "
                f"{min(against):.2f}× at worst ({sum(a < 1 for a in against)} of {len(against)} cases slower)."
            )
        if scipys:
            lines.append(f"- {dtype}: {min(scipys):.1f}× to {max(scipys):.1f}× as fast as scipy.")
        if copies:
            lines.append(
                f"- {dtype}: {max(copies):.2f}× the time of the faster copy into an "
                "array that lies ready, at most, for kernels to 7 on 8192²."
            )
    return [*lines, ""]


def sobel_lines(cases: list[dict[str, object]]) -> list[str]:
    """Derivatives, and how exact the blurs are."""
    lines = ["## Sobel, 3×3, and differences", "", "| size | type | separable | cv2.Sobel |", "|---|---|---|---|"]
    for case in cases:
        if case["what"] == "sobel":
            ours, theirs = (statistics.median(s) * 1e3 for s in case["samples"].values())  # type: ignore[attr-defined]
            lines.append(f"| {case['size']}² | {case['dtype']} | {ours:.3g} | {theirs:.3g} |")
    lines += [
        "",
        "Largest difference from scipy in float64 for values to 255 (rounding an integer result costs 0.5):",
        "",
    ]
    for dtype in TYPES:
        found: dict[str, float] = {}
        for case in cases:
            if case["dtype"] == dtype and "difference" in case:
                for name, value in case["difference"].items():  # type: ignore[attr-defined]
                    found[name] = max(value, found.get(name, 0.0))
        lines.append(f"- {dtype}: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()))
    return [*lines, ""]


def largest_lines(facts: dict[str, object]) -> list[str]:
    """The image larger than a budget of memory."""
    lines = [
        "## From file to file",
        "",
        f"{LARGEST[0]} × {LARGEST[1]} uint8 to float32 with a 131 × 131 Gaussian; peak resident memory of the whole "
        "process, the interpreter, PyTorch and what it has of mapped files included.",
        "",
        "| format | seconds | peak, MB |",
        "|---|---|---|",
    ]
    for suffix, found in facts["large"].items():  # type: ignore[attr-defined]
        lines.append(f"| {suffix} | {found['seconds']:.1f} | {found['peak_bytes'] / 1e6:.0f} |")
    return lines


if __name__ == "__main__":
    main()
