"""Pictures on disk. In: files of every kind, whole and damaged. Out: the pixels that they hold, or one clear error."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, ImageCms

from separable.errors import FileError, MissingExtraError
from separable.filters import files

RANDOM = np.random.default_rng(0)


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RANDOM.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write(path: Path, picture: files.Picture) -> None:
    with files.written(path, picture, np.dtype(picture.pixels.dtype)) as target:
        target[...] = picture.pixels


CASES = {
    "gray": (files.Picture(pixels=pixels(7, 9)), [".png", ".tif", ".npy", ".zarr"]),
    "16-bit gray": (files.Picture(pixels=pixels(7, 9, dtype="uint16")), [".png", ".tif", ".npy", ".zarr"]),
    "RGB": (files.Picture(pixels=pixels(7, 9, 3), channels=-1), [".png", ".tif", ".npy", ".zarr"]),
    "16-bit RGB": (files.Picture(pixels=pixels(7, 9, 3, dtype="uint16"), channels=-1), [".png", ".tif"]),
    "RGBA": (files.Picture(pixels=pixels(7, 9, 4), channels=-1, has_alpha=True), [".png", ".tif"]),
    "16-bit RGBA": (
        files.Picture(pixels=pixels(7, 9, 4, dtype="uint16"), channels=-1, has_alpha=True),
        [".png", ".tif"],
    ),
    "gray with alpha": (files.Picture(pixels=pixels(7, 9, 2), channels=-1, has_alpha=True), [".png"]),
    "floats": (files.Picture(pixels=RANDOM.standard_normal((7, 9)).astype(np.float32)), [".tif", ".npy", ".zarr"]),
    "a volume": (files.Picture(pixels=pixels(6, 7, 9)), [".tif", ".npy", ".zarr"]),
}


@pytest.mark.parametrize(("name", "suffix"), [(name, suffix) for name, (_, each) in CASES.items() for suffix in each])
def test_what_is_written_is_read_again(name: str, suffix: str, tmp_path: Path) -> None:
    picture = CASES[name][0]
    path = tmp_path / f"picture{suffix}"
    write(path, picture)
    is_array = suffix in (".npy", ".zarr")
    found = files.read(path, {None: "none", -1: "last"}[picture.channels] if is_array else None)
    np.testing.assert_array_equal(np.asarray(found.pixels[...]), picture.pixels)
    assert np.dtype(found.pixels.dtype) == picture.pixels.dtype
    assert found.channels == picture.channels
    assert found.has_alpha == picture.has_alpha
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_jpeg_comes_back_nearly_as_it_was(tmp_path: Path) -> None:
    y, x = np.mgrid[0:32, 0:40]
    smooth = np.stack([4 * y, 5 * x, 2 * (x + y)], axis=-1).astype(np.uint8)
    write(tmp_path / "a.jpg", files.Picture(pixels=smooth, channels=-1))
    found = files.read(tmp_path / "a.jpg")
    assert np.abs(found.pixels.astype(int) - smooth).mean() < 3


def test_a_photograph_is_turned_upright_as_its_camera_asks(tmp_path: Path) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :16] = 255
    lying = Image.fromarray(np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    lying.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = files.read(tmp_path / "a.jpg").pixels
    assert found.shape == upright.shape
    assert (np.abs(found.astype(int) - upright) < 30).mean() > 0.95


def test_palettes_bits_and_transparent_colours_become_plain_pixels(tmp_path: Path) -> None:
    rgb = np.array([[[255, 0, 0], [0, 0, 255]], [[0, 0, 255], [255, 0, 0]]], np.uint8)
    Image.fromarray(rgb).quantize(2).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(files.read(tmp_path / "palette.png").pixels, rgb)
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(tmp_path / "bits.png")
    np.testing.assert_array_equal(files.read(tmp_path / "bits.png").pixels, [[0, 255]])
    Image.fromarray(rgb).save(tmp_path / "clear.png", transparency=(255, 0, 0))
    found = files.read(tmp_path / "clear.png")
    assert found.has_alpha
    assert found.pixels[..., 3].tolist() == [[0, 255], [255, 0]]


def test_a_colour_profile_goes_from_one_picture_to_the_next(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels(4, 4, 3)).save(tmp_path / "a.png", icc_profile=profile)
    picture = files.read(tmp_path / "a.png")
    write(tmp_path / "b.png", picture)
    assert files.read(tmp_path / "b.png").profile == profile


def test_compressed_tiff_is_read_and_plain_tiff_is_mapped(tmp_path: Path) -> None:
    values = pixels(64, 48)
    tifffile.imwrite(tmp_path / "packed.tif", values, compression="zlib", tile=(16, 16))
    tifffile.imwrite(tmp_path / "lzw.tif", values, compression="lzw")
    tifffile.imwrite(tmp_path / "plain.tif", values)
    tifffile.imwrite(tmp_path / "other.tif", values.astype(">u2"), byteorder=">")
    for name in ("packed", "lzw", "plain", "other"):
        np.testing.assert_array_equal(np.asarray(files.read(tmp_path / f"{name}.tif").pixels[...]), values)
    assert isinstance(files.read(tmp_path / "plain.tif").pixels, np.memmap)
    assert not isinstance(files.read(tmp_path / "packed.tif").pixels, np.ndarray)


def test_pages_of_a_tiff_are_a_volume_and_pages_of_several_sizes_are_refused(tmp_path: Path) -> None:
    pages = pixels(3, 8, 9)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as file:
        for page in pages:
            file.write(page, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(np.asarray(files.read(tmp_path / "pages.tif").pixels[...]), pages)
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as file:
        for page in (pages[0], pages[0, :4]):
            file.write(page, photometric="minisblack", metadata=None)
    with pytest.raises(FileError, match="2 pictures"):
        files.read(tmp_path / "sizes.tif")


def test_channels_first_in_a_tiff_are_known_as_such(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(3, 8, 9), photometric="rgb", planarconfig="separate")
    found = files.read(tmp_path / "a.tif")
    assert (found.channels, found.axes) == (-3, (-2, -1))


def test_an_array_that_may_end_in_colours_has_to_be_explained(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(8, 9, 3))
    with pytest.raises(FileError, match="--channels"):
        files.read(tmp_path / "a.npy")
    assert files.read(tmp_path / "a.npy", "last").axes == (-3, -2)
    assert files.read(tmp_path / "a.npy", "none").axes == (-3, -2, -1)
    np.save(tmp_path / "b.npy", pixels(3, 8, 9))
    assert files.read(tmp_path / "b.npy", "first").axes == (-2, -1)


def truncated(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_half_a_file_is_an_error_that_names_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"half{suffix}"
    write(path, files.Picture(pixels=pixels(64, 64)))
    with pytest.raises(FileError, match="half"):
        files.read(truncated(path))


def test_half_a_png_of_16_bits_is_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(imagecodecs.png_encode(pixels(64, 64, 3, dtype="uint16")))
    with pytest.raises(FileError, match="half"):
        files.read(truncated(path))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy", ".zarr"])
@pytest.mark.parametrize("content", [b"", b"not a picture at all"])
def test_what_is_no_picture_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"words{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match="words"):
        files.read(path)


def test_a_group_a_pickle_and_a_line_of_numbers_are_no_pictures(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "group.zarr", mode="w")
    np.save(tmp_path / "objects.npy", np.array([{}, None], dtype=object), allow_pickle=True)
    np.save(tmp_path / "line.npy", np.arange(5))
    for name in ("group.zarr", "objects.npy", "line.npy"):
        with pytest.raises(FileError, match=name):
            files.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.bmp", "a", "a.png.txt"])
def test_other_endings_are_refused_with_those_that_are_known(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"\.png, \.jpg"):
        files.read(tmp_path / name)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    with pytest.raises(FileError, match="CMYK"):
        files.read(tmp_path / "print.jpg")


def test_a_png_beyond_pillows_limit_for_servers_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (20, 30)).save(tmp_path / "large.png")
    assert files.read(tmp_path / "large.png").pixels.shape == (30, 20)
    assert Image.MAX_IMAGE_PIXELS == 100


REFUSED = {
    "floats as PNG": ("a.png", files.Picture(pixels=np.zeros((4, 4), np.float32)), "float32"),
    "16 bits as JPEG": ("a.jpg", files.Picture(pixels=np.zeros((4, 4), np.uint16)), "uint16"),
    "transparency as JPEG": ("a.jpg", files.Picture(pixels=np.zeros((4, 4, 4), np.uint8), channels=-1), "transparency"),
    "a volume as PNG": ("a.png", files.Picture(pixels=np.zeros((4, 4, 4), np.uint8)), "shape"),
    "five channels as PNG": ("a.png", files.Picture(pixels=np.zeros((4, 4, 5), np.uint8), channels=-1), "shape"),
    "channels first as PNG": ("a.png", files.Picture(pixels=np.zeros((3, 4, 4), np.uint8), channels=-3), "shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    name, picture, complaint = REFUSED[case]
    with pytest.raises(FileError, match=complaint):
        write(tmp_path / name, picture)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy", ".zarr"])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    old = files.Picture(pixels=np.full((8, 8), 7, np.uint8))
    write(path, old)
    with pytest.raises(KeyboardInterrupt), files.written(path, old, np.dtype(np.uint8)) as target:
        target[:4] = 1
        raise KeyboardInterrupt
    np.testing.assert_allclose(np.asarray(files.read(path).pixels[...]), 7, atol=2)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".zarr"])
def test_a_file_that_exists_is_replaced_only_when_asked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    assert files.check_target(path, overwrite=False) == path
    write(path, files.Picture(pixels=np.zeros((8, 8), np.uint8)))
    with pytest.raises(FileError, match="--overwrite"):
        files.check_target(path, overwrite=False)
    files.check_target(path, overwrite=True)
    write(path, files.Picture(pixels=np.ones((9, 8), np.uint8)))
    assert files.read(path).pixels.shape == (9, 8)
    with pytest.raises(FileError, match="no folder"):
        files.check_target(tmp_path / "none" / f"a{suffix}", overwrite=False)


def test_a_folder_that_is_no_zarr_array_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "precious.zarr"
    folder.mkdir()
    (folder / "letters.txt").write_text("keep")
    with pytest.raises(FileError, match="precious"):
        files.check_target(folder, overwrite=True)
    assert (folder / "letters.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("package", "name"), [("PIL", "a.png"), ("tifffile", "a.tif"), ("zarr", "a.zarr"), ("imagecodecs", "deep.png")]
)
def test_a_package_that_is_not_there_is_asked_for_by_its_extra(
    package: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(imagecodecs.png_encode(pixels(4, 4, 3, dtype="uint16")))
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=r"separable\[filters\]"):
        files.read(path)
