"""The command ``separable filter``. In: words, and pictures in a folder. Out: pictures, or a line that says why not."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from scipy import ndimage

from separable.cli import main
from separable.filters import apply, files, gabor, verdict

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (48, 64), dtype=np.uint8)
RATES = verdict.Rates(pixel_s=1e-9, term_s=1e-9, mac_s=1e-10, fft_s=1e-9)
COLOURS = RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures to filter, in the working folder."""
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    Image.fromarray(COLOURS).save(tmp_path / "colours.png")
    np.save(tmp_path / "kernel.npy", np.outer([1, 2, 1], [-1, 0, 1]))
    np.save(tmp_path / "mean.npy", np.ones((5, 5)) / 25)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verdict, "this_machines_rates", lambda _: RATES)
    return tmp_path


def run(words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["filter", *shlex.split(words)])
    return int(ended.value.code or 0)


def rounded(values: np.ndarray, dtype: type = np.uint8) -> np.ndarray:
    return np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def assert_within_one(path: str, values: np.ndarray) -> None:
    """Rounding a value that lies between two integers may go either way."""
    found = np.asarray(files.read(path).pixels[...]).astype(int)
    assert found.shape == values.shape
    assert np.abs(found - values).max() <= 0.5001


def test_a_gaussian_over_gray_and_over_each_colour(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gray.png out.png --kernel gaussian --sigma 3") == 0
    assert capsys.readouterr().out == "out.png: 48×64 uint8, rounded to whole numbers from 0 to 255\n"
    assert_within_one("out.png", ndimage.gaussian_filter(GRAY.astype(float), 3))
    assert run("colours.png out2.png --kernel gaussian --sigma 2,0.5 --border wrap") == 0
    assert_within_one("out2.png", ndimage.gaussian_filter(COLOURS.astype(float), (2, 0.5, 0), mode="wrap"))


def test_a_derivative_without_an_axis_is_the_magnitude_and_with_one_the_slope() -> None:
    assert run("gray.png out.png --kernel sobel") == 0
    slopes = [ndimage.sobel(GRAY.astype(float), axis) / 4 for axis in (0, 1)]
    assert_within_one("out.png", np.sqrt((slopes[0] ** 2 + slopes[1] ** 2) / 2))
    assert run("gray.png slope.npy --kernel sobel --axis 1 --dtype float32") == 0
    np.testing.assert_allclose(np.load("slope.npy"), slopes[1], atol=1e-4)


def test_negative_values_are_cut_off_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gray.png out.png --kernel laplacian") == 0
    assert "negative values became 0" in capsys.readouterr().out
    assert_within_one("out.png", np.clip(ndimage.laplace(GRAY.astype(float)), 0, 255))


def test_a_kernel_of_ones_own_is_split_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("gray.png out.npy --kernel kernel.npy --tolerance 1e-3 --explain --dtype int16") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3×3 in 1 term, 5 instead of 6 multiply-accumulates a pixel, error 0"
    assert lines[1] == "  [1, 2, 1]ᵀ·[-1, 0, 1]"
    assert "is the fastest for 48×64 uint8 (predicted):" in lines[2]
    assert lines[-1] == "out.npy: 48×64 int16, rounded to whole numbers from -32768 to 32767"
    np.testing.assert_array_equal(np.load("out.npy"), ndimage.sobel(GRAY.astype(np.int16), 1))


def test_explaining_alone_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert run("gray.png --kernel mean.npy --explain") == 0
    assert sorted(folder.iterdir()) == before


def test_convolution_is_correlation_with_the_kernel_turned_round() -> None:
    assert run("gray.png out.npy --kernel kernel.npy --flip --dtype float32 --border constant --constant 9") == 0
    theirs = ndimage.convolve(GRAY.astype(float), np.load("kernel.npy"), mode="constant", cval=9)
    np.testing.assert_allclose(np.load("out.npy"), theirs, atol=1e-3)


def test_what_cannot_be_seen_does_not_bleed_into_what_can() -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:, :16] = (200, 100, 50, 255)
    picture[:, 16:, :3] = (0, 255, 0)  # green, but transparent
    Image.fromarray(picture).save("clear.png")
    assert run("clear.png out.png --kernel gaussian --sigma 3") == 0
    found = np.asarray(Image.open("out.png").convert("RGBA")).astype(int)
    is_seen = found[..., 3] > 10
    assert np.abs(found[is_seen][:, :3] - (200, 100, 50)).max() <= 1
    assert_within_one("out.png", np.dstack([found[..., :3], ndimage.gaussian_filter(picture[..., 3].astype(float), 3)]))
    assert run("clear.png edges.png --kernel sobel") == 0
    np.testing.assert_array_equal(np.asarray(Image.open("edges.png"))[..., 3], picture[..., 3])


def test_a_complex_kernel_leaves_transparency_alone() -> None:
    picture = np.dstack([COLOURS, GRAY])
    Image.fromarray(picture).save("clear.png")
    assert run("clear.png out.npy --kernel gabor --frequency 0.2") == 0
    found = np.load("out.npy")
    np.testing.assert_array_equal(found[..., 3], GRAY)
    np.testing.assert_allclose(found[..., 1], apply(COLOURS[..., 1], gabor(0.2)), rtol=1e-5, atol=1e-3)


def test_sixteen_bits_stay_sixteen_bits() -> None:
    deep = RANDOM.integers(0, 65536, (20, 30), dtype=np.uint16)
    Image.fromarray(deep).save("deep.png")
    assert run("deep.png out.png --kernel box --size 3") == 0
    expected = ndimage.uniform_filter(deep.astype(float), 3)
    found = np.asarray(files.read("out.png").pixels)
    assert found.dtype == np.uint16
    assert np.abs(found - expected).max() <= 0.51


def test_tiff_and_zarr_are_filtered_tile_by_tile_as_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separable.filters.tiles.TILE_BYTES", 20_000)
    volume = RANDOM.integers(0, 65536, (5, 70, 90), dtype=np.uint16)
    tifffile.imwrite("volume.tif", volume, photometric="minisblack")
    assert run("volume.tif out.zarr --kernel gaussian --sigma 1,2,1 --dims 3 --border mirror") == 0
    found = np.asarray(zarr.open_array("out.zarr", mode="r")[...])
    expected = ndimage.gaussian_filter(volume.astype(float), (1, 2, 1), mode="mirror")
    assert np.abs(found - expected).max() <= 0.51
    assert run("out.zarr edges.tif --kernel scharr --dtype float32 --border wrap") == 0
    slopes = [ndimage.correlate1d(found.astype(float), [-1, 0, 1], axis, mode="wrap") for axis in (1, 2)]
    smooth = [
        ndimage.correlate1d(slope, np.array([3, 10, 3]) / 16, axis, mode="wrap")
        for slope, axis in zip(slopes, (2, 1), strict=True)
    ]
    np.testing.assert_allclose(tifffile.imread("edges.tif"), np.sqrt(sum(s**2 for s in smooth) / 2), rtol=1e-4)


def test_a_picture_may_be_filtered_in_place_when_that_is_asked_for() -> None:
    tifffile.imwrite("a.tif", GRAY)
    assert run("a.tif a.tif --kernel box --size 3") == 2
    assert run("a.tif a.tif --kernel box --size 3 --overwrite") == 0
    assert_within_one("a.tif", ndimage.uniform_filter(GRAY.astype(float), 3))


@pytest.mark.parametrize(
    "words", ["colours.png out.png --kernel sobel", "volume.npy out.npy --kernel gabor --frequency 0.2"]
)
def test_a_figure_shows_before_after_and_the_terms(words: str) -> None:
    np.save("volume.npy", RANDOM.random((9, 20, 30)).astype(np.float32))
    assert run(f"{words} --figure figure.png") == 0
    drawn = np.asarray(Image.open("figure.png").convert("RGB"))
    assert drawn.shape[0] > 500
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 200


def test_the_fastest_way_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = RANDOM.random((9, 8))
    kernel /= kernel.sum()
    np.save("noise.npy", kernel)
    for name, fft_s in (("terms", 1.0), ("fourier", 1e-15)):
        rates = verdict.Rates(pixel_s=0, term_s=0, mac_s=1e-9, fft_s=fft_s)
        monkeypatch.setattr(verdict, "this_machines_rates", lambda _, rates=rates: rates)
        assert run(f"gray.png {name}.png --kernel noise.npy --fastest --border wrap") == 0
        assert_within_one(f"{name}.png", ndimage.correlate(GRAY.astype(float), kernel, mode="wrap"))
    monkeypatch.setattr("separable.filters.tiles.TILE_BYTES", 4000)
    assert run("gray.png tiles.npy --kernel noise.npy --fastest --border constant --constant 7 --dtype float32") == 0
    expected = ndimage.correlate(GRAY.astype(float), kernel, mode="constant", cval=7)
    np.testing.assert_allclose(np.load("tiles.npy"), expected, atol=1e-3)


def test_a_bar_is_shown_on_a_terminal_only(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("gray.png out.png --kernel box --size 3") == 0
    assert capfd.readouterr().err == ""


WRONG = {
    "gray.png out.png --kernel gausian --sigma 3": "Did you mean gaussian",
    "gray.png out.png --kernel gaussian": "no sigma",
    "gray.png out.png --kernel gaussian --sigma 3 --size 4": "the option size",
    "gray.png out.png --kernel gaussian --sigma -1": "standard deviation",
    "gray.png out.png --kernel gaussian --sigma 1,2,3 --dims 2": "3 numbers",
    "gray.png out.png --kernel gaussian --sigma x": "'x' is no number",
    "gray.png out.png --kernel gaussian --sigma 1 --dims 3": "kernel of 3 axes",
    "gray.png out.png --kernel box --size 1.5": "whole number",
    "gray.png out.png --kernel sobel --axis 2": "axis",
    "gray.png out.png --kernel none.npy": "none.npy",
    "gray.png out.png --kernel noise.npy": "at most the picture's 2",
    "gray.png out.png --kernel gray.npy": "gray.npy",
    "gray.png out.png --kernel kernel.npy --sigma 3": "--sigma",
    "gray.png out.png --kernel kernel.npy --tolerance 2": "tolerance",
    "gray.png out.png --kernel box --size 3 --tolerance 1e-3": "tolerance",
    "gray.png out.png --kernel gabor --frequency 0.1": "complex64",
    "gray.png out.png --kernel sobel --dtype float32": "float32",
    "gray.png out.png --kernel sobel --dtype banana": "banana",
    "gray.png out.npy --kernel sobel --dtype int64": "int64",
    "gray.png out.bmp --kernel sobel": ".bmp",
    "gray.png none/out.png --kernel sobel": "no folder",
    "gray.png --kernel sobel": "TARGET is missing",
    "gray.png --kernel sobel --explain --figure a.png": "--figure needs a TARGET",
    "gray.png out.png --kernel sobel --figure a.txt": ".txt",
    "gray.png colours.png --kernel sobel": "--overwrite",
    "none.png out.png --kernel sobel": "no such file",
    "half.png out.png --kernel sobel": "half.png",
    "words.png out.png --kernel sobel": "words.png",
    "objects.npy out.npy --kernel sobel": "objects.npy",
    "longs.npy out.npy --kernel sobel": "int64",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_done_is_one_line_on_stderr_and_leaves_no_file(
    words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "half.png").write_bytes((folder / "gray.png").read_bytes()[:500])
    (folder / "words.png").write_text("no picture")
    np.save("objects.npy", np.array([[{}]], dtype=object))
    np.save("noise.npy", RANDOM.random((9, 8, 8, 8)))  # taking it apart would not end within the test's time
    np.save("longs.npy", np.ones((8, 8), np.int64))
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(words) == 2
    said = capsys.readouterr()
    assert WRONG[words] in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2)])
def test_a_picture_smaller_than_the_kernel_is_filtered_as_scipy_does(shape: tuple[int, int]) -> None:
    image = RANDOM.random(shape).astype(np.float32)
    np.save("small.npy", image)
    for border in ("reflect", "mirror", "nearest", "wrap", "constant"):
        assert run(f"small.npy out.npy --kernel gaussian --sigma 4 --border {border} --overwrite") == 0
        np.testing.assert_allclose(np.load("out.npy"), ndimage.gaussian_filter(image, 4, mode=border), atol=1e-6)


def test_an_empty_picture_stays_empty() -> None:
    np.save("empty.npy", np.zeros((0, 5), np.float32))
    for number, kernel in enumerate(["gaussian --sigma 1", "sobel"]):
        assert run(f"empty.npy out{number}.npy --kernel {kernel}") == 0
        assert np.load(f"out{number}.npy").shape == (0, 5)


def test_a_dark_result_is_drawn_brighter_and_the_figure_says_so() -> None:
    dark = np.zeros((12, 10, 3), np.uint8)
    dark[:, 5:] = 40
    Image.fromarray(dark).save("dark.png")
    assert run("dark.png out.png --kernel sobel --figure figure.svg") == 0
    assert "× as bright" in Path("figure.svg").read_text(encoding="utf-8")
