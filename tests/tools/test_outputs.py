"""Outputs of the tools are tried before the work whose result they are."""

from pathlib import Path

import pytest
from PIL import Image

from gan_vkd.tools import inputs, progress
from tests.tools.conftest import Vkd

CALLS = [  # of a tool, with RUN, a PICTURE, a FILE in place of a folder
    ("truncation", "RUN", "--out", "FILE/x.png"),
    ("truncation", "RUN", "--out", "x.gif"),
    ("mix", "RUN", "--out", "FILE/x.png"),
    ("mix", "RUN", "--out", "FOLDER.png"),
    ("interpolate", "RUN", "--out", "FILE/x.gif"),
    ("progress", "RUN", "--out", "FILE/x.gif"),
    ("sample", "RUN", "--out", "FILE/x.png"),
    ("sample", "RUN", "--out", "FILE"),
    ("project", "RUN", "PICTURE", "--out", "FILE"),
    ("project", "RUN", "PICTURE", "--out", "new", "--video", "FILE/x.gif"),
    ("project", "RUN", "PICTURE", "--out", "new", "--video", "x.png"),
]


@pytest.mark.parametrize("call", CALLS)
def test_an_output_that_cannot_be_written_is_refused_first(
    call: tuple[str, ...],
    stylegan2: Path,
    vkd: Vkd,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*arguments: object) -> None:
        pytest.fail("the run was read")

    monkeypatch.setattr(inputs, "load", never)
    monkeypatch.setattr(progress, "sample_grids", never)
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("")
    Path("FOLDER.png").mkdir()
    Image.new("RGB", (32, 32)).save("PICTURE", "PNG")
    message = vkd(
        *(str(stylegan2) if part == "RUN" else part for part in call),
        code=1 + (call[-1] in ("x.gif", "x.png")),
    )
    assert f"{call[-1]}" in message
    assert "cannot be written" in message or "expected a name that ends in" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["FILE", "FOLDER.png", "PICTURE"]
