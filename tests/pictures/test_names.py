"""Names of pictures: inside the folder, and never one for two images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brimful.pictures.names import crop_name, image_name, video_name

part = st.one_of(
    st.sampled_from(
        ["..", ".", "_", "__", "___", "crops", "crops_", "a", "a.jpg", "a.heic", "a.heic.jpg"]
    ),
    st.text(st.sampled_from("a._0é"), min_size=1, max_size=5),
    st.lists(st.sampled_from([".jpg", ".heic", ".mp4", ".avi", "a"]), min_size=1, max_size=5).map(
        "".join
    ),
)
key = st.builds(
    lambda root, parts: root + "/".join(parts),
    st.sampled_from(["", "/"]),
    st.lists(part, min_size=1, max_size=4),
)


def normal(path: str) -> str:
    """Return a path as its components: two spellings of these are one file."""
    parts = [p for p in path.split("/") if p not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


@given(key, key, st.booleans())
def test_two_images_never_share_a_name(one, other, crops):
    if normal(one).strip("/") and normal(other).strip("/") and normal(one) != normal(other):
        assert image_name(one, crops=crops) != image_name(other, crops=crops)
        assert video_name(one, crops=crops) != video_name(other, crops=crops)


@given(key, key, st.integers(0, 12), st.integers(0, 12))
def test_two_crops_never_share_a_name(one, other, m, n):
    names = [(k, i) for k, i in ((one, m), (other, n)) if normal(k).strip("/")]
    if len(names) == 2 and (normal(one), m) != (normal(other), n):
        first, second = (crop_name(k, None, i, "bolt", 0) for k, i in names)
        assert first != second


@given(key)
def test_a_name_stays_inside_the_folder(one):
    for name in (image_name(one), video_name(one), crop_name(one, 3, 1, "../..", 7)):
        assert not name.is_absolute()
        assert ".." not in name.parts


@given(key)
def test_an_image_makes_way_for_crops(one):
    assert image_name(one, crops=True).parts[0] != "crops" or len(image_name(one).parts) == 1


def test_names_are_those_of_the_sources_where_they_can_be():
    assert str(image_name("a/b.JPG")) == "a/b.JPG"
    assert str(image_name("b.png")) == "b.png"
    assert str(image_name("b.heic")) == "b.heic.jpg"
    assert str(image_name("b")) == "b.jpg"
    assert str(video_name("clip.mp4")) == "clip.mp4"
    assert str(video_name("clip.avi")) == "clip.avi.mp4"
    assert str(image_name("../b.jpg")) == "__/b.jpg"
    assert str(crop_name("a/b.png", None, 3, "traffic light", 9)) == (
        "crops/traffic light/a/b-3.png"
    )
    assert str(crop_name("clip.mp4", 7, 0, "a/b", 4)) == "crops/a_b-4/clip.mp4/000007-0.jpg"


def test_an_ending_that_was_added_is_told_from_one_that_was_there():
    for name, ending in ((image_name, ".jpg"), (video_name, ".mp4")):
        keys = ["a.avi", *(f"a.avi{ending * n}" for n in range(1, 4)), f"a{ending}", f"a{ending}"]
        assert len({name(key) for key in keys}) == len(set(keys))


def test_long_names_are_shortened_and_stay_different():
    one, other = (image_name(f"{'é' * 200}{end}.png") for end in "ab")
    assert one != other and one.suffix == ".png"
    assert len(str(one).encode()) < 220
