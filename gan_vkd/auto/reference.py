"""Whether `vkd train` is given settings or pictures."""

import os
from mimetypes import guess_type
from pathlib import Path

from gan_vkd.runtime.errors import SettingsError
from gan_vkd.runtime.files import user_path
from gan_vkd.runtime.settings_names import file_named

ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")  # which are not read


def are_pictures(reference: Path) -> bool:
    """Whether a reference means a folder or zip of pictures.

    It does if it is a folder without settings.yaml in it, or a name that ends in .zip;
    anything else is settings. A relative path that names settings, too, means neither.

    Raises:
        SettingsError: the reference is both, or a file of one picture, a video or another archive.
    """
    path = user_path(reference)
    kind = guess_type(path.name)[0] or ""
    other = kind.startswith(("image/", "video/")) or path.suffix.lower() in ARCHIVES
    if other and path.is_file():
        raise SettingsError(f"{reference}: give a folder or a zip of pictures, or settings")
    if path.is_dir():
        pictures = not os.path.lexists(path / "settings.yaml")
    else:
        pictures = path.suffix.lower() == ".zip"  # also one that is missing
    settings = file_named(str(reference)) if pictures and not path.is_absolute() else None
    if settings not in (None, path):
        raise SettingsError(
            f"{reference}: both settings ({settings}) and a folder; write {reference}.yaml for the "
            f"settings, or {path.absolute()} for its pictures"
        )
    return pictures


def name_of(pictures: Path) -> str:
    """The name of a folder or zip of pictures in that of its run."""
    return pictures.name if pictures.is_dir() else pictures.stem
