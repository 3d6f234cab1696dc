"""examples/quickstart.ipynb runs from an empty folder, in a few iterations."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


def test_the_notebook_shows_samples_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    monkeypatch.setenv("VKD_ITERATIONS", "2")
    monkeypatch.setenv("VKD_SETTINGS", "model.ch=2 evaluate.num_samples=50 train.batch_size=8")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    shown = [
        output.data
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))
                for data in shown if "image/png" in data]  # fmt: skip
    assert len(pictures) == 2
    assert pictures[-1].shape == (64, 512, 3)
    assert all(picture.std() > 1 for picture in pictures)
    (table,) = (data["text/markdown"] for data in shown if "text/markdown" in data)
    assert "whitening" in table
    assert "FID" not in table
