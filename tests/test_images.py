"""Image files are decoded exactly or refused by name in one line."""

import io
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_vkd.data import images as module
from gan_vkd.data.images import read_images
from gan_vkd.runtime.errors import VkdError


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int = 0, size: int = 32) -> bytes:
    return encode(Image.fromarray(noise(seed, size, size, 3)))


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that declares its size but holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def make(kind: str, root: Path, files: dict[str, bytes]) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(root / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root / "set.zip"
    for name, data in files.items():
        file = root / "set" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return root / "set"


def refusal(path: Path, **options) -> str:
    with pytest.raises(VkdError) as caught:
        read_images(path, 32, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    assert str(path) in message
    return message


both = pytest.mark.parametrize("kind", ["folder", "zip"])


# layouts


@both
@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["a.png", "b.png"], ["", ""]),
        (["deep/er/a.png", "deep/er/b.png"], ["", ""]),
        (["cat/a.png", "cat/b.png", "dog/a.png"], ["cat", "cat", "dog"]),
        (["x/train/cat/1.png", "x/train/dog/1.png"], ["cat", "dog"]),
        (["cat/left/1.png", "cat/right/1.png", "dog/1.png"], ["cat", "cat", "dog"]),
    ],
)
def test_folder_layouts_are_read(kind, names, classes, tmp_path):
    extra = {".hidden/x.png": b"no", "__MACOSX/x.png": b"no", "notes.txt": b"no"}
    files = {name: png(seed) for seed, name in enumerate(names)}
    pixels, found, found_classes = read_images(make(kind, tmp_path, files | extra), 32)
    assert (found, found_classes) == (names, classes)
    expected = [noise(seed, 32, 32, 3) for seed in range(len(names))]
    np.testing.assert_array_equal(pixels, expected)


@both
def test_images_are_ordered_by_name(kind, tmp_path):
    names = ["c.png", "a.png", "b.png"]
    path = make(kind, tmp_path, {name: png(seed) for seed, name in enumerate(names)})
    pixels, found, _ = read_images(path, 32)
    assert found == ["a.png", "b.png", "c.png"]
    np.testing.assert_array_equal(pixels, [noise(seed, 32, 32, 3) for seed in (1, 2, 0)])


@both
def test_mixture_of_flat_and_class_folders_is_refused(kind, tmp_path):
    message = refusal(make(kind, tmp_path, {"loose.png": png(), "cat/a.png": png()}))
    assert "1 images are outside the class folders" in message
    assert "loose.png" in message


@both
def test_set_without_images_is_refused(kind, tmp_path):
    assert "no images" in refusal(make(kind, tmp_path, {"readme.txt": b"hello"}))


def test_links_to_folders_are_followed_once(tmp_path):
    elsewhere = make("folder", tmp_path / "elsewhere", {"1.png": png(1)})
    path = make("folder", tmp_path, {"cat/2.png": png(2)})
    (path / "dog").symlink_to(elsewhere)
    (path / "cat" / "loop").symlink_to(path)
    _, names, classes = read_images(path, 32)
    assert (names, classes) == (["cat/2.png", "dog/1.png"], ["cat", "dog"])


def test_missing_path_is_refused(tmp_path):
    assert "no such folder or zip" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"plain text"])
def test_file_that_is_no_zip_is_refused(content, tmp_path):
    (tmp_path / "set.zip").write_bytes(content)
    assert "neither a folder nor a readable zip" in refusal(tmp_path / "set.zip")


# pixel formats


def alone(tmp_path: Path, data: bytes, name: str = "x.png", resolution: int = 32) -> np.ndarray:
    pixels, _, _ = read_images(make("folder", tmp_path, {name: data}), resolution)
    assert pixels.shape == (1, resolution, resolution, 3)
    assert pixels.dtype == np.uint8
    return pixels[0]


def test_greyscale_becomes_three_equal_channels(tmp_path):
    grey = noise(1, 32, 32)
    pixels = alone(tmp_path, encode(Image.fromarray(grey)))
    np.testing.assert_array_equal(pixels, np.stack([grey] * 3, -1))


@pytest.mark.parametrize("bands", ["LA", "RGBA"])
def test_transparent_pixels_are_blended_with_white(bands, tmp_path):
    colours = noise(2, 32, 32, len(bands) - 1)
    alpha = noise(3, 32, 32, 1)
    alpha[:8], alpha[8:16] = 0, 255
    image = Image.fromarray(np.concatenate([colours, alpha], -1), bands)
    pixels = alone(tmp_path, encode(image)).astype(float)
    share = alpha / 255.0
    expected = np.broadcast_to(colours * share + 255 * (1 - share), pixels.shape)
    assert np.abs(pixels - expected).max() <= 1, "differs by more than rounding"
    assert (pixels[:8] == 255).all()
    np.testing.assert_array_equal(pixels[8:16], np.broadcast_to(colours, pixels.shape)[8:16])


@pytest.mark.parametrize("transparent", [None, 0])
def test_palette_images_are_converted(transparent, tmp_path):
    colours = np.array([[200, 10, 20], [30, 220, 40], [50, 60, 240]], np.uint8)
    indices = noise(4, 32, 32) % 3
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.flatten().tolist())
    options = {} if transparent is None else {"transparency": transparent}
    pixels = alone(tmp_path, encode(image, **options))
    if transparent is not None:
        colours[transparent] = 255
    np.testing.assert_array_equal(pixels, colours[indices])


def test_cmyk_jpeg_has_the_colours_of_its_inks(tmp_path):
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (255, 0, 0, 0): (0, 255, 255)}
    for number, (ink, colour) in enumerate(inks.items()):
        root = tmp_path / str(number)
        data = encode(Image.new("CMYK", (32, 32), ink), "JPEG", quality=100)
        pixels = alone(root, data, "x.jpg").astype(int)
        assert np.abs(pixels - colour).max() <= 3, "JPEG at quality 100"


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_images_are_scaled(suffix, tmp_path):
    wide = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    data = encode(Image.fromarray(wide), "TIFF" if suffix == "tif" else "PNG")
    pixels = alone(tmp_path, data, f"x.{suffix}")
    expected = (wide / 257.0).round()
    np.testing.assert_array_equal(pixels, np.stack([expected] * 3, -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    upright = noise(5, 32, 32, 3)
    # the stored form of an upright image for each orientation (EXIF 2.32, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(alone(tmp_path, data), upright)


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64), (90, 50), (7, 9)])
def test_other_sizes_are_cropped_to_the_central_square(width, height, tmp_path):
    # red margins around a central green square must be cropped
    side = min(width, height)
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[..., 0] = 255
    top, left = (height - side) // 2, (width - side) // 2
    canvas[top : top + side, left : left + side] = (0, 255, 0)
    pixels = alone(tmp_path, encode(Image.fromarray(canvas)))
    assert (pixels == (0, 255, 0)).all()


def test_resizing_is_antialiased(tmp_path):
    checkers = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    pixels = alone(tmp_path, encode(Image.fromarray(checkers.astype(np.uint8))))
    assert np.abs(pixels.astype(float) - 127.5).max() <= 2


def test_images_have_the_requested_resolution(tmp_path):
    assert alone(tmp_path, png(6, 64), resolution=64).shape == (64, 64, 3)


def test_the_first_image_of_a_camera_jpeg_is_read(tmp_path):
    first, preview = (Image.new("RGB", (32, 32), colour) for colour in ("navy", "white"))
    data = encode(first, "MPO", save_all=True, append_images=[preview])
    pixels = alone(tmp_path, data, "x.jpg").astype(int)
    assert np.abs(pixels - (0, 0, 128)).max() <= 6, "JPEG"


# files that cannot be used


def gif(frames: int) -> bytes:
    pages = [Image.fromarray(noise(i, 32, 32)) for i in range(frames)]
    return encode(pages[0], "GIF", save_all=True, append_images=pages[1:])


def corrupt() -> bytes:
    data = bytearray(png())
    data[60:120] = bytes(60)
    return bytes(data)


BAD = {
    "corrupt.png": (corrupt(), "damaged"),
    "truncated.png": (png()[:700], "damaged"),
    "truncated.jpg": (encode(Image.fromarray(noise(0, 32, 32, 3)), "JPEG")[:-200], "damaged"),
    "empty.png": (b"", "empty file"),
    "animated.gif": (gif(3), "animated"),
    "text.jpg": (b"<html>404</html>", "not an image"),
    "float.tif": (encode(Image.fromarray(np.ones((32, 32), np.float32)), "TIFF"), "floating-point"),
    "large.png": (png_header(17000, 17000), "17000x17000 pixels, more than data.max_megapixels"),
    "larger.png": (png_header(60000, 60000), "60000x60000 pixels"),
    "program.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "not an image"),
}


@both
@pytest.mark.parametrize("name", BAD)
def test_unusable_file_is_refused_by_name(kind, name, tmp_path, recwarn):
    data, reason = BAD[name]
    message = refusal(make(kind, tmp_path, {"good.png": png(), name: data}))
    assert "1 of 2 images cannot be used" in message
    assert f"{name} ({reason}" in message
    assert "data.damaged=skip" in message
    assert not recwarn.list


def test_a_gif_with_one_frame_is_read(tmp_path):
    np.testing.assert_array_equal(
        alone(tmp_path, gif(1), "x.gif"), np.stack([noise(0, 32, 32)] * 3, -1)
    )


@both
def test_many_unusable_files_are_counted_and_the_first_named(kind, tmp_path):
    files = {f"{i}.png": b"x" for i in range(9)} | {"good.png": png()}
    message = refusal(make(kind, tmp_path, files))
    assert "9 of 10" in message
    assert "0.png" in message
    whole = Path(re.search(r"; and 4 more \(all: (.*)\)\. Repair", message)[1])
    assert whole.read_text().splitlines() == [f"{i}.png (not an image)" for i in range(9)]
    whole.unlink()


@both
def test_skip_leaves_out_unusable_files(kind, tmp_path, capsys):
    files = {name: data for name, (data, _) in BAD.items()}
    files |= {"good.png": png(1), "zgood.png": png(2)}
    pixels, names, classes = read_images(make(kind, tmp_path, files), 32, "skip")
    assert (names, classes) == (["good.png", "zgood.png"], ["", ""])
    np.testing.assert_array_equal(pixels, [noise(1, 32, 32, 3), noise(2, 32, 32, 3)])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    assert f"{len(BAD)} of {len(BAD) + 2} images cannot be used" in out


def test_class_emptied_by_skipping_is_refused(tmp_path):
    path = make("folder", tmp_path, {"cat/a.png": png(), "dog/a.png": b"x", "eel/a.png": b"x"})
    assert "class dog, eel" in refusal(path, damaged="skip")


def test_flat_set_emptied_by_skipping_is_refused(tmp_path):
    assert refusal(make("folder", tmp_path, {"a.png": b"x"}), damaged="skip").endswith("is left")


def test_the_pixel_limit_is_inclusive(tmp_path):
    flat = [encode(Image.new("RGB", size)) for size in ((1000, 1000), (1000, 1001))]
    path = make("folder", tmp_path, {"a.png": flat[0]})
    read_images(path, 32, max_megapixels=1)
    make("folder", tmp_path, {"a.png": flat[1]})
    message = refusal(path, max_megapixels=1)
    assert "1000x1001 pixels, more than data.max_megapixels = 1)" in message


@both
def test_files_above_the_size_limit_are_refused_unread(kind, tmp_path, monkeypatch):
    path = make(kind, tmp_path, {"a.png": png(), "b.png": bytes(3_000_000)})
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2**21)
    assert "b.png (" in (message := refusal(path))
    assert "3 MiB, more than 2" in message


@pytest.mark.parametrize("name", ["a\nb.png", b"caf\xe9.png"])
def test_unprintable_names_are_reported_in_one_line(name, tmp_path, capsys):
    root = os.fsencode(make("folder", tmp_path, {"good.png": png()}))
    with open(os.path.join(root, os.fsencode(name)), "wb") as file:
        file.write(b"x")
    refusal(tmp_path / "set").encode()
    read_images(tmp_path / "set", 32, "skip")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_irregular_files_are_refused_unread(tmp_path):
    (tmp_path / "set").mkdir()
    os.mkfifo(tmp_path / "set" / "pipe.png")
    (tmp_path / "set" / "zeros.png").symlink_to("/dev/zero")
    message = refusal(tmp_path / "set")
    assert "pipe.png (not a regular file); zeros.png (not a regular file)" in message


def test_unreadable_file_is_named(tmp_path, monkeypatch):
    path = make("folder", tmp_path, {"good.png": png(), "bad.png": png()})
    read_bytes = Path.read_bytes

    def fail(self: Path) -> bytes:
        if self.name == "bad.png":
            raise OSError(5, "Input/output error")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert "bad.png (unreadable: Input/output error)" in refusal(path)


# archives


def test_damaged_member_is_named(tmp_path):
    path = make("zip", tmp_path, {"good.png": png(1), "bad.png": png(2)})
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("bad.png").header_offset
    data = bytearray(path.read_bytes())
    data[start + 200 : start + 400] = bytes(200)
    path.write_bytes(data)
    assert "1 of 2" in (message := refusal(path))
    assert "bad.png" in message


def test_encrypted_member_is_named(tmp_path):
    path = make("zip", tmp_path, {"secret.png": png()})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1  # the encryption flag
    path.write_bytes(data)
    message = refusal(path)
    assert "secret.png" in message
    assert "encrypted" in message


def test_a_member_larger_than_declared_is_refused(tmp_path):
    path = make("zip", tmp_path, {"bomb.png": png() + bytes(10**7)})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = data.index(signature) + offset
        data[start : start + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    assert "bomb.png" in refusal(path)


@pytest.mark.parametrize(
    "name", ["../../escaped.png", "/tmp/absolute.png", "a/../../b.png", "C:/b.png", "..\\b.png"]
)
def test_member_paths_that_point_outside_are_refused(name, tmp_path):
    root = tmp_path / "deep" / "er"
    root.mkdir(parents=True)
    with zipfile.ZipFile(root / "set.zip", "w") as archive:
        archive.writestr("ok.png", png())
        archive.writestr(zipfile.ZipInfo(name), png())
    before = sorted(tmp_path.rglob("*"))
    assert "points out of the archive" in refusal(root / "set.zip")
    assert sorted(tmp_path.rglob("*")) == before


def test_symbolic_link_in_an_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("ok.png", png())
        archive.writestr(link, "/etc/passwd")
    assert "link.png is a symbolic link" in refusal(tmp_path / "set.zip")


def test_an_archive_above_the_size_limit_is_refused(tmp_path, monkeypatch):
    path = make("zip", tmp_path, {f"{i}.png": png(i) for i in range(3)})
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", sum(len(png(i)) for i in range(3)))
    read_images(path, 32)
    monkeypatch.setattr(module, "MAX_ARCHIVE_BYTES", sum(len(png(i)) for i in range(3)) - 1)
    assert "give the folder" in refusal(path)


def test_a_duplicate_member_counts_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(2))
    pixels, names, _ = read_images(tmp_path / "set.zip", 32)
    assert names == ["a.png"]
    np.testing.assert_array_equal(pixels, [noise(2, 32, 32, 3)])


def test_damaged_archives_are_read_correctly_or_refused(tmp_path):
    """With any byte changed, images are read correctly or the archive is refused in one line."""
    path = make("zip", tmp_path, {f"{c}/{i}.png": png(i, 8) for c in "ab" for i in range(2)})
    whole, good = path.read_bytes(), read_images(path, 8)
    random = np.random.default_rng(0)
    known, refusals = dict(zip(good[1], good[0], strict=True)), []
    for _ in range(300):
        data = bytearray(whole)
        if random.random() < 0.2:
            del data[random.integers(len(data)) :]
        else:
            data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            pixels, _, _ = read_images(path, 8)
        except VkdError as error:
            refusals.append(str(error))
            continue
        # a bit flip in a stored name may rename a member; its pixels still match the checksum
        assert all(any((image == other).all() for other in known.values()) for image in pixels)
    assert len(refusals) > 200
    assert all(len(message.splitlines()) == 1 for message in refusals)


@pytest.mark.parametrize("damaged", ["refuse", "skip"])
def test_an_unreadable_folder_is_named(damaged, tmp_path, monkeypatch, capsys):
    for name in ("a", "b", "shut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png())
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if damaged == "skip":
        assert len(read_images(tmp_path, 32, damaged)[0]) == 2
        assert "shut: cannot be read (Permission denied)" in capsys.readouterr().out
    else:
        with pytest.raises(VkdError, match=r"shut: cannot be read .* set data\.damaged=skip"):
            read_images(tmp_path, 32, damaged)
