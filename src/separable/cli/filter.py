"""``separable filter``. In: a picture's path, a kernel's name or file. Out: the filtered picture, and what was done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from separable import filters
from separable.cli.arguments import threads_option
from separable.errors import FileError, SpecError
from separable.factor.kernel2d import TOLERANCE
from separable.filters import figure, files, stream
from separable.filters.bank import DERIVATIVES, KERNELS, kernel_named
from separable.filters.borders import RULES, Border
from separable.filters.pixels import PIXELS
from separable.progress import told

EPILOG = f"""KERNEL is a .npy file, or one of {", ".join(KERNELS)}. sobel, scharr, prewitt, farid and
gaussian_derivative without --axis give the magnitude of the gradient. Formats by ending: {", ".join(files.SUFFIXES)};
TIFF, NPY and Zarr may be larger than memory."""


def numbers(text: str) -> float | tuple[float, ...]:
    """One number, or one an axis: 2 or 2,0.5."""
    try:
        found = tuple(int(part) if part.strip().isdigit() else float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no number, nor several with commas between them") from error
    return found[0] if len(found) == 1 else found


# What a kernel of the bank may take, under the name that it has there.
KERNEL_OPTIONS: dict[str, tuple[Any, str]] = {
    "sigma": (numbers, "Standard deviation, in pixels, or in the unit of --spacing."),
    "order": (numbers, "Derivative of a gaussian, or order of a binomial."),
    "size": (numbers, "Pixels of a box."),
    "axis": (int, "The axis of a derivative, from 0."),
    "spacing": (numbers, "Distance of two pixels."),
    "truncate": (float, "Cut a gaussian off at so many standard deviations (4)."),
    "low_sigma": (numbers, "The narrower of two gaussians."),
    "high_sigma": (numbers, "The wider of two gaussians (1.6 times the other)."),
    "radius": (numbers, "Standard deviation of an unsharp mask."),
    "amount": (float, "Strength of an unsharp mask."),
    "frequency": (float, "Cycles a pixel of a gabor."),
    "theta": (float, "Direction of a gabor, in radians."),
    "bandwidth": (float, "Octaves of a gabor."),
}


def kernel_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each of ``KERNEL_OPTIONS``."""
    for name, (kind, text) in reversed(KERNEL_OPTIONS.items()):
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=text)(command)
    return command


@click.command(name="filter", epilog=EPILOG)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path), required=False)
@click.option("--kernel", required=True, help="A name, or a .npy file with a kernel of any shape.")
@kernel_options
@click.option("--dims", type=click.IntRange(1), help="Axes that a named kernel runs over; the last ones (2).")
@click.option("--tolerance", type=float, help="Largest relative squared error of splitting a .npy kernel (1e-12).")
@click.option("--border", type=click.Choice(RULES), default="reflect", show_default=True)
@click.option("--constant", type=float, default=0.0, help="What lies outside with --border constant.")
@click.option("--channels", type=click.Choice(["first", "last", "none"]), help="Of .npy, .zarr and plain TIFF.")
@click.option("--dtype", help="Type of the result, such as float32; the picture's own unless given.")
@click.option("--flip", is_flag=True, help="Convolve: turn the kernel round.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET where it exists.")
@click.option("--explain", is_flag=True, help="Print the kernel's terms and the fastest way; TARGET may be left out.")
@click.option("--fastest", is_flag=True, help="Take the fastest way; the last bits may differ between machines.")
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="Draw before, after and the terms.")
@threads_option
def command(source: Path, target: Path | None, kernel: str, **given: Any) -> None:
    """Filter the picture SOURCE into TARGET, axis by axis.

    The result has the picture's type, unless --dtype says another: whole numbers are rounded to the nearest and end
    at the limits of their type.
    """
    if target is None and not given["explain"]:
        raise click.UsageError("TARGET is missing; it may be left out with --explain only.")
    _check_targets(target, given["figure_path"], overwrite=given["overwrite"])
    picture = files.read(source, given["channels"])
    recipe = _recipe(kernel, given, len(picture.axes))
    dtype = _dtype(given["dtype"], picture, recipe)
    if given["explain"] or given["fastest"]:
        verdicts = [_verdict(each, picture) for each in recipe.kernels]
    if given["explain"]:
        click.echo("\n".join([*map(str, recipe.kernels), str(verdicts[0])]))
    if given["fastest"]:
        recipe = _fastest(recipe, verdicts)
    if target is None:
        return
    with files.written(target, picture, dtype) as pixels, told(True, source.name, 100) as tell:
        stream.filter_picture(picture, pixels, recipe, lambda done, of: tell(100 * done // of))
    click.echo(_said(target, picture, recipe, dtype))
    if given["figure_path"]:
        figure.draw(given["figure_path"], picture, files.read(target, given["channels"]), recipe.kernels[0])


def _check_targets(target: Path | None, figure_path: Path | None, *, overwrite: bool) -> None:
    """Everything that could keep the results from being written, before the work."""
    if target is not None:
        files.check_target(target, overwrite=overwrite)
    if figure_path is not None:
        figure.check_target(figure_path, overwrite=overwrite)
        if target is None:
            raise click.UsageError("--figure needs a TARGET: it shows the result.")


def _recipe(kernel: str, given: dict[str, Any], most_axes: int) -> stream.Recipe:
    """What the words ask for; a kernel of more axes than the picture's is not taken apart, which may take minutes."""
    options = {name: given[name] for name in (*KERNEL_OPTIONS, "dims", "tolerance") if given[name] is not None}
    border = Border(given["border"], given["constant"])
    name = kernel.replace("-", "_").lower()
    is_magnitude = name in DERIVATIVES and "axis" not in options
    if kernel.endswith(".npy"):
        kernels = [_split_file(Path(kernel), most_axes, **options)]
    elif is_magnitude:
        dims = options.pop("dims", 2)
        kernels = [kernel_named(name, axis=axis, dims=dims, **options) for axis in range(dims)]
    else:
        kernels = [kernel_named(name, **options)]
    return stream.Recipe(kernels=tuple(kernels), is_magnitude=is_magnitude, border=border, flip=given["flip"])


def _split_file(path: Path, most_axes: int, **options: Any) -> filters.Terms:
    """The terms of a kernel on disk."""
    tolerance = options.pop("tolerance", TOLERANCE)
    if options:
        raise SpecError(f"--kernel {path}", given=f"also --{next(iter(options))}", expected="--tolerance at most")
    try:
        kernel = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(str(path), given=f"a file that cannot be read ({error})", expected="a whole .npy") from error
    if kernel.ndim > most_axes:
        raise SpecError(f"--kernel {path}", given=f"{kernel.ndim} axes", expected=f"at most the picture's {most_axes}")
    return filters.split(kernel, tolerance)


def _dtype(name: str | None, picture: files.Picture, recipe: stream.Recipe) -> np.dtype[Any]:
    """The type of the result."""
    if name is None:
        is_complex = any(kernel.dtype.kind == "c" for kernel in recipe.kernels)
        return np.dtype(np.complex64 if is_complex else picture.pixels.dtype.newbyteorder("="))
    if name not in (known := (*PIXELS, "complex64", "complex128")):
        raise SpecError("--dtype", given=repr(name), expected=f"one of {', '.join(known)}")
    return np.dtype(name)


def _verdict(kernel: filters.Terms, picture: files.Picture) -> filters.Verdict:
    """Which way is the fastest for the axes that the kernel runs over."""
    shape = [picture.pixels.shape[axis] for axis in picture.axes[-len(kernel.shape) :]]
    return filters.choose(kernel, shape, picture.pixels.dtype)


def _fastest(recipe: stream.Recipe, verdicts: list[filters.Verdict]) -> stream.Recipe:
    """The recipe by the fastest way; several kernels are of one size, and the first verdict holds for them all."""
    if verdicts[0].method == "fft":
        return replace(recipe, is_fft=True)
    return replace(recipe, kernels=tuple(verdict.terms or verdict.separable for verdict in verdicts))


def _said(target: Path, picture: files.Picture, recipe: stream.Recipe, dtype: np.dtype[Any]) -> str:
    """What was written."""
    text = f"{target}: {'×'.join(map(str, picture.pixels.shape))} {dtype}"
    if dtype.kind not in "iu":
        return text
    limits = np.iinfo(dtype)
    text += f", rounded to whole numbers from {limits.min} to {limits.max}"
    if recipe.is_signed and limits.min == 0:
        text += "; negative values became 0 (--dtype float32 with .tif, .npy or .zarr keeps them)"
    return text
