"""Pictures on disk. In: a path. Out: pixels that are read as they are needed, or a place for them that is whole or
absent.

PNG and JPEG are read and written in one piece. Uncompressed TIFF and NPY are mapped into memory, other TIFF and Zarr
are read chunk by chunk, so that what is larger than memory can be filtered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from separable.errors import FileError, MissingExtraError, SeparableError
from separable.files import checked_writable, written_whole

PILLOW = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
TIFF = (".tif", ".tiff")
SUFFIXES = (*PILLOW, *TIFF, ".npy", ".zarr")
HOLDS = {"PNG": ("uint8", "uint16"), "JPEG": ("uint8",)}
# Pillow's modes that are pixels as they stand; the others are turned into the nearest of these.
MODES = {"L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16", "1": "L", "La": "LA", "RGBa": "RGBA"}
ZARR_NAMES = ("zarr.json", ".zarray")
PNG_HEAD = b"\x89PNG\r\n\x1a\n"
JPEG_QUALITY = 95
BIG_TIFF_BYTES = 2**32 - 2**25  # what 32-bit offsets reach, less 32 MiB for what describes the pixels


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pixels: an array, or what is read like one, and what its axes are.

    ``channels`` is the axis of colours or the like, counted from the end; None where there is none. ``has_alpha``: the
    last channel says how opaque a pixel is. ``profile`` says what the colours mean (ICC).
    """

    pixels: Any
    channels: int | None = None
    has_alpha: bool = False
    profile: bytes | None = None

    @property
    def axes(self) -> tuple[int, ...]:
        """All other axes, counted from the end."""
        return tuple(axis for axis in range(-len(self.pixels.shape), 0) if axis != self.channels)


def read(path: str | os.PathLike[str], channels: str | None = None) -> Picture:
    """The picture in a file. ``channels`` says where they are in an array that does not: "first", "last" or "none".

    A photograph is turned upright, as its camera asks. FileError for what is not there, damaged, or no picture.
    """
    path = Path(path)
    suffix = checked_suffix(path)
    if not path.exists():
        raise FileError(str(path), given="no such file", expected="a picture")
    if suffix in PILLOW:
        return _read_pillow(path)
    if suffix in TIFF:
        return _read_tiff(path, channels)
    return _with_channels(path, _open_npy(path) if suffix == ".npy" else _open_zarr(path), channels)


def check_target(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """``path``, when a picture may be written there; FileError otherwise. To be asked before the work."""
    path = Path(path)
    if checked_suffix(path) != ".zarr" or not any((path / name).exists() for name in ZARR_NAMES):
        checked_writable(path)  # which a folder is not; one that is a Zarr array may be replaced
    if path.exists() and not overwrite:
        raise FileError(str(path), given="a file that exists", expected="a new one", remedy="Give --overwrite.")
    return path


def checked_suffix(path: Path) -> str:
    """The ending of a name; FileError unless it is a known format."""
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise FileError(str(path), given=f"the ending {suffix!r}", expected=f"one of {', '.join(SUFFIXES)}")
    return suffix


def check_holds(path: Path, like: Picture, dtype: np.dtype[Any]) -> None:
    """FileError where a format cannot hold pixels of this type or these channels."""
    name = PILLOW.get(checked_suffix(path))
    if name is None:
        return
    remedy = "Write .tif, .npy or .zarr."
    if dtype.name not in HOLDS[name]:
        raise FileError(str(path), given=f"pixels of type {dtype}", expected=" or ".join(HOLDS[name]), remedy=remedy)
    shape = like.pixels.shape
    count = 1 if like.channels is None else shape[like.channels]
    if len(like.axes) != 2 or (like.channels not in (None, -1)) or not 1 <= count <= 4:
        raise FileError(str(path), given=f"pixels of shape {shape}", expected="(h, w) or (h, w, c)", remedy=remedy)
    if name == "JPEG" and (count in (2, 4)):
        raise FileError(str(path), given="transparency", expected="gray or RGB", remedy="Write .png or .tif.")


@contextlib.contextmanager
def written(path: Path, like: Picture, dtype: np.dtype[Any]) -> Iterator[Any]:
    """An array of ``like``'s shape to write into; on leaving it becomes the file, on an error nothing is left."""
    suffix, shape = checked_suffix(path), tuple(like.pixels.shape)
    check_holds(path, like, dtype)
    if suffix == ".zarr":
        with _folder_whole(path) as folder:
            yield _zarr().create_array(folder, shape=shape, dtype=dtype, chunks=getattr(like.pixels, "chunks", "auto"))
        return
    with written_whole(path) as temporary:
        if suffix in PILLOW:
            pixels = np.empty(shape, dtype)
            yield pixels
            _save_pillow(temporary, PILLOW[suffix], pixels, like)
            return
        target = _new_tiff(temporary, like, dtype) if suffix in TIFF else _new_npy(temporary, shape, dtype)
        yield target
        target.flush()
        del target


def _read_pillow(path: Path) -> Picture:
    pillow, operations = _pillow()
    limit, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, None  # the limit guards servers, not the owner of a file
    try:
        with pillow.open(path, formats=("PNG", "JPEG")) as image:
            profile = image.info.get("icc_profile")
            if image.mode == "CMYK":
                raise FileError(str(path), given="a picture in CMYK", expected="gray or RGB")
            if (deep := _deep_png(path)) is not None:
                return Picture(pixels=deep, channels=-1, has_alpha=deep.shape[-1] in (2, 4), profile=profile)
            upright = operations.exif_transpose(image)
            is_clear = "transparency" in upright.info
            mode = MODES.get(upright.mode, "RGB")
            if is_clear:
                mode = {"L": "LA"}.get(mode, "RGBA")
            pixels = np.asarray(upright if upright.mode == mode else upright.convert(mode))
    except SeparableError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise FileError(str(path), given=f"a file that cannot be read ({error})", expected="a whole picture") from error
    finally:
        pillow.MAX_IMAGE_PIXELS = limit
    channels = -1 if pixels.ndim == 3 else None
    return Picture(pixels=pixels, channels=channels, has_alpha=mode in ("LA", "RGBA"), profile=profile)


def _deep_png(path: Path) -> np.ndarray | None:
    """The pixels of a PNG with several channels of 16 bits, which Pillow would cut to 8; None for any other file."""
    with path.open("rb") as file:
        head = file.read(26)
    depth, colours = head[24:25], head[25:26]
    if not head.startswith(PNG_HEAD) or depth != b"\x10" or colours not in (b"\x02", b"\x04", b"\x06"):
        return None
    codecs = _imagecodecs()
    try:
        return np.asarray(codecs.png_decode(path.read_bytes()))
    except codecs.PngError as error:
        raise OSError(error) from error


def _save_pillow(path: Path, name: str, pixels: np.ndarray, like: Picture) -> None:
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.dtype == np.uint16:
        path.write_bytes(_imagecodecs().png_encode(pixels))
        return
    options = {"quality": JPEG_QUALITY} if name == "JPEG" else {}
    _pillow()[0].fromarray(pixels).save(path, name, icc_profile=like.profile, **options)


def _read_tiff(path: Path, channels: str | None) -> Picture:
    tifffile = _tifffile()
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.series) != 1:
                raise FileError(str(path), given=f"{len(file.series)} pictures", expected="one, or pages of one size")
            series, page = file.series[0], file.pages[0]
            axes, alpha = series.axes, page.extrasamples
            is_plain = page.is_memmappable and series.dataoffset is not None
        if is_plain:
            pixels = tifffile.memmap(path, mode="r")
        else:
            store = tifffile.imread(path, aszarr=True)
            pixels = _zarr().open_array(store, mode="r")
            weakref.finalize(pixels, store.close)
    except SeparableError:
        raise
    except (OSError, ValueError, tifffile.TiffFileError) as error:
        raise FileError(str(path), given=f"a file that cannot be read ({error})", expected="a whole TIFF") from error
    at = next((axes.index(letter) - len(axes) for letter in "SC" if letter in axes), None)
    if at is None and channels is not None:
        return _with_channels(path, pixels, channels)
    return Picture(pixels=pixels, channels=at, has_alpha=bool(alpha) and "S" in axes)


def _new_tiff(path: Path, like: Picture, dtype: np.dtype[Any]) -> Any:
    shape = like.pixels.shape
    is_rgb = like.channels == -1 and shape[-1] in (3, 4)
    return _tifffile().memmap(
        path,
        shape=shape,
        dtype=dtype,
        photometric="rgb" if is_rgb else "minisblack",
        planarconfig="contig" if like.channels == -1 else None,
        extrasamples=["unassalpha"] if like.has_alpha else None,
        bigtiff=int(np.prod(shape)) * dtype.itemsize > BIG_TIFF_BYTES,
    )


def _open_npy(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(str(path), given=f"a file that cannot be read ({error})", expected="a whole .npy") from error


def _new_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _open_zarr(path: Path) -> Any:
    zarr = _zarr()
    try:
        return zarr.open_array(path, mode="r")
    except (OSError, ValueError, KeyError, TypeError) as error:
        given = f"a folder that cannot be read ({error})"
        raise FileError(str(path), given=given, expected="a Zarr array (not a group)") from error


def _with_channels(path: Path, pixels: Any, channels: str | None) -> Picture:
    """An array says nothing about its axes; one that might end in colours has to be explained."""
    shape = pixels.shape
    if len(shape) < 2:
        raise FileError(str(path), given=f"an array of shape {shape}", expected="2 axes or more")
    if channels is None and len(shape) > 2 and (shape[-1] <= 4 or shape[-3] <= 4):
        remedy = "Give --channels first, last or none."
        raise FileError(str(path), given=f"an array of shape {shape}", expected="a word on its channels", remedy=remedy)
    at = {"first": -len(shape), "last": -1}.get(channels or "none")
    if at is not None and len(shape) < 3:
        raise FileError(str(path), given=f"an array of shape {shape}", expected="3 axes or more, one of channels")
    return Picture(pixels=pixels, channels=at)


@contextlib.contextmanager
def _folder_whole(path: Path) -> Iterator[Path]:
    """The same as ``written_whole`` for a folder: the new one takes the old one's place when it is finished."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(path.parent.stat().st_mode & 0o777)
        if path.exists():
            old = temporary.with_name(f"{temporary.name}.old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingExtraError("PNG and JPEG", package="pillow", extra="filters") from error
    return Image, ImageOps


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError("TIFF", package="tifffile", extra="filters") from error
    return tifffile


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise MissingExtraError("Zarr and compressed TIFF", package="zarr", extra="filters") from error
    return zarr


def _imagecodecs() -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingExtraError("PNG of 16 bits", package="imagecodecs", extra="filters") from error
    return imagecodecs
