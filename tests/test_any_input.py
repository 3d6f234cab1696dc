"""Settings files, images and archives of any content are read or refused in one line."""

import io
import zipfile
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from gan_vkd.data.images import read_images
from gan_vkd.game.settings import Settings, load_settings
from gan_vkd.runtime.errors import SettingsError, VkdError
from tests.strangers import within_limits

examples = lambda count: settings(  # noqa: E731
    max_examples=count, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def keys(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Returns every key of the settings, as key.sub."""
    found = []
    for name, field in schema.model_fields.items():
        found.append(prefix + name)
        for inner in (field.annotation, *get_args(field.annotation)):
            if (
                isinstance(inner, type)
                and get_origin(inner) is None
                and issubclass(inner, BaseModel)
            ):
                found += keys(inner, f"{prefix}{name}.")
    return found


KEYS = keys(Settings)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["digits", "test", "vkd", "pkd", "whitening", "auto", "both", 32, 64, 1]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["layer", "name", "student", "weights", "x"]), inner)
    ),
    max_leaves=5,
)


def mistyped(key: str, place: int) -> str:
    place %= len(key)
    return key[:place] + key[place + 1 :] + key[place]


KEY = st.sampled_from(KEYS) | st.builds(mistyped, st.sampled_from(KEYS), st.integers(0, 50))


def put(tree: dict[Any, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        tree = tree.setdefault(part, {}) if isinstance(tree.get(part, {}), dict) else {}
    tree[last] = value


@examples(1500)
@given(st.lists(st.tuples(KEY, VALUES), max_size=4))
def test_settings_with_any_keys_and_values_load_or_are_refused(
    tmp_path: Path, changes: list[tuple[str, Any]]
) -> None:
    tree: dict[Any, Any] = {"arm": "none", "data": {"source": "digits"}}
    for key, value in changes:
        put(tree, key, value)
    file = tmp_path / "run.yaml"
    try:
        file.write_text(yaml.safe_dump(tree))
    except (UnicodeEncodeError, yaml.YAMLError):
        assume(False)
    check(file)


@examples(500)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_settings_with_any_content_load_or_are_refused(
    tmp_path: Path, content: str | bytes
) -> None:
    file = tmp_path / "run.yaml"
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    file.write_bytes(data)
    check(file)


def check(file: Path) -> None:
    try:
        with within_limits():
            found = load_settings(file)
    except SettingsError as error:
        for line in str(error).splitlines():
            assert line.startswith(str(file)), "every line names the file"
    else:
        file.write_text(found.dump())
        assert load_settings(file) == found


# images and archives


def picture(kind: str, seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for index, kind in enumerate(("PNG", "JPEG", "GIF", "BMP")):
            file.writestr(f"{'ab'[index % 2]}/{index}.{kind.lower()}", picture(kind, index))
    return buffer.getvalue()


KINDS = {kind: picture(kind, 7) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")}
ARCHIVE = archive()


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["flip", "insert", "delete", "cut", "repeat"]))
        if change == "flip" and start < len(data):
            data[start] ^= draw(st.integers(1, 255))
        elif change == "insert":
            data[start:start] = draw(st.binary(max_size=8))
        elif change == "delete":
            del data[start : start + draw(st.integers(1, 8))]
        elif change == "cut":
            del data[start:]
        else:
            data[start:start] = data[start : start + 16]
    return bytes(data)


@examples(300)
@given(st.sampled_from(sorted(KINDS)).flatmap(lambda k: st.tuples(st.just(k), mutated(KINDS[k]))))
def test_mutated_images_load_or_are_refused(tmp_path: Path, image: tuple[str, bytes]) -> None:
    kind, data = image
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / f"x.{kind.lower()}").write_bytes(data)
    read(folder)


@examples(300)
@given(mutated(ARCHIVE))
def test_mutated_archives_load_or_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "set.zip").write_bytes(data)
    read(tmp_path / "set.zip")


def read(path: Path) -> None:
    try:
        with within_limits():
            images, names, classes = read_images(path, 8)
    except VkdError as error:
        lines = str(error).splitlines()
    else:
        lines = ["read"]
        assert images.shape == (len(names), 8, 8, 3)
        assert len(classes) == len(names)
    assert len(lines) == 1
