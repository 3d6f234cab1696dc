"""Large images: JPEGs are decoded at a reduced scale, and one at a time."""

import threading
import time

import numpy as np
import pytest
from PIL import Image

from gan_vkd.data import decoding
from gan_vkd.data.decoding import LARGE, BadImage, decode, open_rgb
from tests.test_images import encode, make, noise, read_images


def smooth(width: int, height: int, kind: str = "JPEG", **options) -> bytes:
    image = Image.fromarray(noise(0, 6, 8, 3)).resize((width, height), Image.Resampling.BICUBIC)
    return encode(image, kind, **options)


@pytest.fixture(scope="module")
def large() -> bytes:
    return smooth(5000, 4000)


def whole(data: bytes, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    """The image as without a reduced scale."""
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "LARGE", 10**9)
        return open_rgb(data, needed=1)


def test_a_large_jpeg_is_decoded_at_a_reduced_scale(large, monkeypatch):
    assert open_rgb(large).size == (5000, 4000)
    for needed, size in [(2001, (5000, 4000)), (1000, (2500, 2000)), (501, (2500, 2000)),
                         (500, (1250, 1000)), (250, (625, 500)), (1, (625, 500))]:  # fmt: skip
        assert open_rgb(large, needed=needed).size == size, f"{needed} pixels are needed"
    whole_pixels = np.asarray(whole(large, monkeypatch).resize((625, 500), Image.Resampling.BOX))
    reduced = np.asarray(open_rgb(large, needed=1)).astype(int)
    assert np.abs(reduced - whole_pixels).max() <= 4


def test_orientation_is_applied_at_a_reduced_scale():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = smooth(5000, 4000, exif=exif)
    assert open_rgb(data, needed=500).size == (1000, 1250)


def test_other_images_are_decoded_as_before(large, monkeypatch):
    """To the bit: JPEGs up to the limit, and other formats of any size."""
    assert LARGE == 4000 * 4000
    for data in (smooth(4000, 4000), smooth(5000, 4000, "BMP")):
        expected = whole(data, monkeypatch)
        assert (np.asarray(open_rgb(data, needed=1)) == np.asarray(expected)).all()


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "LARGE", 40 * 40)
    active, most, lock, finish = [0, 0], [0, 0], threading.Lock(), decoding.upright

    def slow(image: Image.Image) -> Image.Image:
        kind = image.width > 40
        with lock:
            active[kind] += 1
            most[kind] = max(most[kind], active[kind])
        time.sleep(0.05)
        with lock:
            active[kind] -= 1
        return finish(image)

    monkeypatch.setattr(decoding, "upright", slow)
    files = {f"{i}.png": smooth(size, size, "PNG") for i, size in enumerate([32, 64] * 6)}
    read_images(make("folder", tmp_path, files), 32)
    assert most[True] == 1
    assert most[False] > 1


def test_the_limit_of_a_large_image_can_be_raised():
    data = encode(Image.new("L", (14000, 13000)), "JPEG")  # Pillow's own limit is 179 million
    with pytest.raises(BadImage, match=r"14000x13000 pixels, more than .* = 181"):
        decode(data, 32, max_megapixels=181)
    assert decode(data, 32, max_megapixels=182).shape == (32, 32, 3)


def test_lack_of_memory_is_told(monkeypatch):
    def fail(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "upright", fail)
    with pytest.raises(BadImage, match="not enough memory"):
        open_rgb(smooth(20, 20))
