"""Nothing is left out without a word, and what one named is taken as often as it is named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from brimful.errors import UsageError
from brimful.sources import open_source
from brimful.sources.skipped import Skipped


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def keys(source) -> list[str]:
    images = list(iter(source))
    assert [image.index for image in images] == list(range(len(images)))
    return [image.key for image in images]


RARE = ["1.avif", "2.jp2", "3.heic", "4.PPM", "5.pgm", "6.pbm", "7.pfm", "8.HEIF", "9.pam"]


def test_a_folder_of_rarer_formats_is_taken(tmp_path):
    make(tmp_path, *RARE)
    assert keys(open_source(tmp_path)) == RARE


def test_what_a_folder_holds_besides_is_counted_by_suffix(tmp_path):
    make(tmp_path, "a.jpg", "b.DNG", "c.dng", "labels/a.txt", "README", ".hidden.xml", ".h/x.dng")
    source = open_source(tmp_path)
    for _ in range(2):  # each iteration counts anew
        assert keys(source) == ["a.jpg"]
        assert dict(source.skipped.files) == {".dng": 2, ".txt": 1, "": 1}
        assert str(source.skipped) == (
            "skipped: 4 files that are no image or video by name "
            "(2 .dng, 1 without a suffix, 1 .txt)"
        )
    len(source)
    assert source.skipped.files.total() == 4


def test_a_pattern_counts_what_it_matches(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.dng", "a/3.txt", "b/4.dng")
    source = open_source(f"{tmp_path}/a/*")
    assert keys(source) == ["1.jpg"]
    assert dict(source.skipped.files) == {".dng": 1, ".txt": 1}
    source = open_source(f"{tmp_path}/**/[14].*")
    assert keys(source) == ["a/1.jpg"]
    assert dict(source.skipped.files) == {".dng": 1}


def test_so_do_folders_in_lists_and_on_standard_input(tmp_path):
    make(tmp_path, "f/a.jpg", "f/b.dng")
    (tmp_path / "list.txt").write_text("f\nf/a.jpg\nf/*\n")
    source = open_source(tmp_path / "list.txt")
    assert keys(source) == ["f/a.jpg"]
    assert (dict(source.skipped.files), source.skipped.repeated) == ({".dng": 2}, 2)
    names = f"{tmp_path}/f\n{tmp_path}/f/a.jpg\n".encode()
    source = open_source("-", stdin=io.BytesIO(names))
    assert keys(source) == [f"{tmp_path}/f/a.jpg"]
    assert (dict(source.skipped.files), source.skipped.repeated) == ({".dng": 1}, 1)
    source = open_source([tmp_path / "f"])
    assert keys(source) == [f"{tmp_path}/f/a.jpg"]
    assert str(source.skipped) == "skipped: 1 file that is no image or video by name (1 .dng)"


def test_many_suffixes_are_not_all_named():
    skipped = Skipped()
    skipped.add_files(["a.txt", *(f"{i}.x{i}" for i in range(9)), "b.txt"])
    skipped.repeated = 1200
    assert str(skipped).startswith(
        "skipped: 11 files that are no image or video by name (2 .txt, 1 .x0, "
    )
    assert str(skipped).endswith(", 4 more suffixes); 1,200 named before")


def test_a_path_given_thrice_is_taken_thrice(tmp_path):
    make(tmp_path, "a.jpg", "f/b.jpg")
    a, f = f"{tmp_path}/a.jpg", f"{tmp_path}/f"
    assert keys(open_source([a, a, a])) == [a, a, a]
    assert keys(open_source([f, a, Path(f), a])) == [f"{f}/b.jpg", a, f"{f}/b.jpg", a]
    assert len(open_source([a, f, a])) == 3


# --- odd names ------------------------------------------------------------------------------


def test_a_tilde_is_a_home_or_a_name(tmp_path, monkeypatch):
    make(tmp_path, "~nobody-of-this-name/a.jpg", "~/b.jpg", "home/c.jpg", "~x/d.jpg")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert keys(open_source("~nobody-of-this-name")) == ["a.jpg"]
    assert keys(open_source(Path("~nobody-of-this-name/a.jpg"))) == ["a.jpg"]
    assert keys(open_source("~x/*.jpg")) == ["d.jpg"]
    with pytest.raises(UsageError, match=r"there is no source '~gone-of-this-name"):
        open_source("~gone-of-this-name/a.jpg")
    assert keys(open_source("~")) == ["b.jpg"], "what is there goes first"
    (tmp_path / "~/b.jpg").unlink()
    (tmp_path / "~").rmdir()
    assert keys(open_source("~")) == ["c.jpg"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_in_utf16(tmp_path, encoding):
    make(tmp_path, "é 日.jpg", "b.jpg")
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    text = "# Windows\r\né 日.jpg\r\nb.jpg\r\n"
    (tmp_path / "list.txt").write_bytes(mark + text.encode(encoding))
    source = open_source(tmp_path / "list.txt")
    assert keys(source) == ["é 日.jpg", "b.jpg"]
    assert [Path(image.payload).exists() for image in source] == [True, True]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a.jpg\nb.jpg\n".encode("utf-16-le"), "zero bytes"),
        (b"a.jpg\0b.jpg\0", "zero bytes.*standard input"),
        (b"\xff\xfea", "damaged UTF-16"),
        ("\ufeffa.jpg\n".encode("utf-32-le"), "zero bytes"),
    ],
)
def test_a_list_that_is_no_text_is_refused(tmp_path, content, what):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UsageError, match=what):
        open_source(tmp_path / "list.txt")


def test_utf16_on_standard_input_is_refused():
    with pytest.raises(UsageError, match="standard input is UTF-16"):
        open_source("-", stdin=io.BytesIO("a.jpg\nb.jpg\n".encode("utf-16")))


def test_lines_that_no_file_system_takes_are_rows(tmp_path):
    lines = ["n" * 5000 + "*.jpg", "x" * 300 + ".jpg", "[" * 5000, "ok.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    assert [image.key for image in iter(open_source(tmp_path / "list.txt"))] == lines


@pytest.mark.parametrize("name", ["\ud800.jpg", "\udfff", "a\ud83d\ude00.mp4", "\ud800*.jpg"])
def test_names_with_surrogates_that_stand_for_no_byte(tmp_path, name):
    path = f"{tmp_path}/{name}"
    for image in [*open_source([path]), *iter(open_source([path, np.zeros((2, 2), np.uint8)]))]:
        image.key.encode()
    with pytest.raises(UsageError):
        open_source(path)


# --- what is taken from memory --------------------------------------------------------------


def test_lists_of_paths_and_of_images(tmp_path):
    make(tmp_path, "a.jpg", "f/b.jpg", "f/c.jpg", "f/d.dng")
    pixels = np.full((4, 4, 3), 7, np.uint8)
    a = f"{tmp_path}/a.jpg"
    source = open_source([pixels, a, tmp_path / "f", pixels, a])
    images = list(iter(source))
    below = [f"{tmp_path}/f/b.jpg", f"{tmp_path}/f/c.jpg"]
    assert [image.key for image in images] == ["0", a, *below, "3", a]
    assert [image.index for image in images] == list(range(6)) and len(source) == 6
    np.testing.assert_array_equal(images[4].payload, pixels)
    assert source.skipped.files.total() == 1
    left = open_source([pixels, a, pixels], done={("0", None), (a, None)})
    assert [(image.index, image.key) for image in iter(left)] == [(2, "2")]


def test_tensors_are_what_ultralytics_takes():
    torch = pytest.importorskip("torch")
    rgb = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6), np.uint8)
    batch = torch.from_numpy(rgb).float() / 255
    expected = rgb.transpose(0, 2, 3, 1)[:, :, :, ::-1]
    for given in (batch, batch.half(), batch.double(), torch.from_numpy(rgb)):
        source = open_source(given)
        assert len(source) == 2
        for image, pixels in zip(source, expected, strict=True):
            np.testing.assert_array_equal(image.payload, pixels)
            assert image.payload.dtype == np.uint8 and image.payload.flags.c_contiguous
    for given in (batch[0], batch[:1], [batch[0]], [batch[:1]]):
        (image,) = open_source(given)
        np.testing.assert_array_equal(image.payload, expected[0])
    (image,) = open_source(batch[:1, :1])
    np.testing.assert_array_equal(image.payload, np.repeat(rgb[0, 0][:, :, None], 3, 2))
    needs_gradient = batch[0].clone().requires_grad_()
    np.testing.assert_array_equal(next(iter(open_source(needs_gradient))).payload, expected[0])


def refused() -> dict[str, object]:
    zeros = np.zeros
    found = {
        "float array": zeros((4, 4, 3), np.float32),
        "NHWC array": zeros((2, 4, 4, 3), np.uint8),
        "two channels": zeros((4, 4, 2), np.uint8),
        "empty": zeros((0, 4, 3), np.uint8),
        "16 bit": zeros((4, 4, 3), np.uint16),
        "BytesIO": io.BytesIO(b"x"),
        "generator": (i for i in ()),
        "set": {1},
        "number": 3,
        "none": None,
    }
    try:
        import torch
    except ImportError:
        return found
    return found | {
        "NHWC tensor": torch.zeros(2, 4, 4, 3),
        "HWC tensor": torch.zeros(8, 8, 3),
        "levels": torch.full((3, 4, 4), 255.0),
        "normalised": torch.full((1, 3, 4, 4), -0.5),
        "NaN": torch.full((3, 4, 4), float("nan")),
        "int tensor": torch.zeros((3, 4, 4), dtype=torch.int32),
        "flat": torch.zeros(4, 4),
    }


@pytest.mark.parametrize("what", refused())
def test_what_is_no_image_is_refused_by_an_exception(what, tmp_path):
    item = refused()[what]
    with pytest.raises(UsageError, match="expected"):
        open_source(item)
    good = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(UsageError, match="expected"):
        open_source([good, item])
    with pytest.raises(UsageError, match="expected"):
        open_source([tmp_path, item])
