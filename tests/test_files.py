"""Regular files only are read, and nothing is written through a link or half."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import (
    read_bytes,
    read_text,
    remove_unfinished,
    require_writable,
    subfolder,
    user_path,
    write_atomically,
    write_text,
)


def refusal(path: Path, most: int = 100) -> str:
    with pytest.raises(VkdError) as caught:
        read_text(path, most)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("text", "fault"),
    [("~nosuchuser/x", "no such user"), ("a\0b", "a character that no name can have"),
     ("\ud800", "a character"), ("\n" * 300, "more than 255 bytes in a name"),
     ("ü" * 128, "255 bytes"), ("a/" * 3000, "4095 in all")],
)  # fmt: skip
def test_what_cannot_be_a_path_is_refused_in_one_line(text, fault):
    with pytest.raises(SettingsError, match=fault) as caught:
        user_path(text)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


def test_home_folders_are_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a") == user_path(Path("~/a")) == Path("/home/me/a")
    assert user_path("a/~") == Path("a/~")
    assert user_path("x" * 255) == Path("x" * 255)


def test_a_path_through_a_shut_folder_is_refused(monkeypatch):
    def refuse(self: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(SettingsError, match=r"shut/x: cannot be reached \(Permission denied\)"):
        user_path("shut/x")


def test_all_paths_of_users_go_through_one_function():
    root = Path(__file__).parents[1]
    files = [*root.glob("gan_vkd/**/*.py"), *root.glob("classification/**/*.py")]
    assert [file.name for file in files if "expanduser" in file.read_text()] == ["files.py"]


def test_a_regular_file_is_read_up_to_its_limit(tmp_path):
    file = tmp_path / "text"
    file.write_bytes("zwölf".encode())
    assert read_text(file, 6) == "zwölf"
    assert read_bytes(file, 6) == "zwölf".encode()
    assert "larger than" in refusal(file, 5)
    (tmp_path / "link").symlink_to(file)
    assert read_text(tmp_path / "link", 6) == "zwölf"


def test_other_kinds_of_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert "not a regular file" in refusal(path)
    (tmp_path / "link").symlink_to("/dev/zero")
    assert "not a regular file" in refusal(tmp_path / "link")
    assert "Is a directory" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "missing")
    assert "null byte" in refusal(Path("a\0b"))
    assert "too long" in refusal(tmp_path / ("x" * 300))


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "latin").write_bytes("zwölf".encode("latin-1"))
    assert "not UTF-8 text" in refusal(tmp_path / "latin")


def test_text_is_utf8_whatever_the_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gan_vkd.runtime.files import *\n"
        "write_text(Path(sys.argv[1]), 'zw\\u00f6lf'); print(len(read_text(Path(sys.argv[1]), 9)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "text")],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "5\n"
    assert (tmp_path / "text").read_bytes() == "zwölf".encode()


def test_a_written_file_has_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new" / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "file").stat().st_mode) == 0o640
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_link_is_replaced_and_what_it_names_is_untouched(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "file").symlink_to(tmp_path / "precious")
    temporary = tmp_path / f".file.{os.getpid()}.vkd-tmp"
    temporary.symlink_to(tmp_path / "precious")
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "text"
    assert not (tmp_path / "file").is_symlink()
    assert not temporary.is_symlink()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    def fail(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    write_text(tmp_path / "file", "old")
    with pytest.raises(VkdError, match=r"cannot be written \(No space left"):
        write_atomically(tmp_path / "file", fail)
    with pytest.raises(VkdError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "text")
    with pytest.raises(VkdError, match=r"cannot be written \(embedded null byte"):
        write_text(tmp_path / "a\0b", "text")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_file_is_tried_without_a_trace(tmp_path):
    require_writable(tmp_path / "new" / "folder" / "file")
    (tmp_path / "file").write_text("old")
    require_writable(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    for name in ("file/below", "folder", "link/file", "a\0b", "x" * 300):
        with pytest.raises(VkdError, match="cannot be written"):
            require_writable(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_subfolder_is_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "samples").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(VkdError, match="samples: a symbolic link, and nothing is written"):
        subfolder(tmp_path / "run", "samples")
    assert subfolder(tmp_path / "link", "scores") == tmp_path / "link" / "scores"


def test_only_own_unfinished_files_are_removed(tmp_path):
    own = tmp_path / ".metrics.jsonl.123.vkd-tmp"
    others = [".x.tmp", ".x.123.tmp", "x.123.vkd-tmp", ".x.vkd-tmp", "sub"]
    own.write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / own.name).write_text("")
    (tmp_path / ".folder.1.vkd-tmp").mkdir()
    for name in others[:-1]:
        (tmp_path / name).write_text("")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".folder.1.vkd-tmp"])
    assert os.listdir(tmp_path / "sub") == [own.name]
    remove_unfinished(tmp_path / "missing")
