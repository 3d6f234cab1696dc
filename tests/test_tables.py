"""Names of strangers in tables and figures: shown, and neither obeyed nor calculated."""

import csv
import io
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from gan_vkd.report.arms import write_tables
from gan_vkd.report.figures import label, save_figure
from gan_vkd.report.tables import as_csv, confidence, markdown
from gan_vkd.runtime.errors import VkdError

NUMBERS = ["-1.200", "+1.234", confidence([1.0, -2.0]), confidence([-1.0, -2.0]), "nan", "3 of 6"]
FORMULAS = [
    "=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "-", "+1 (=A1)",
    "-1.2 (a|b)", "+1+1",
]  # fmt: skip


def test_markdown_cells_stay_cells():
    odd = "a|b\nc\td\x1b[2J\u2028e"
    header, rule, row = markdown([{"arm": odd, odd: "1"}]).split("\n")
    assert row.startswith(r"| a\|b\nc\td\x1b[2J\u2028e | 1 ")
    assert len(header) == len(rule) == len(row)
    assert header.count("|") - header.count(r"\|") == 3


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_cells_are_not_calculated(text):
    ((_, arm, name), (caption, value, _)) = read({text: [{"arm": text, text: "1"}]})
    for cell in (name, caption, value):
        assert cell.startswith("'")
        assert "\t" not in cell
    assert arm == "arm"


@pytest.mark.parametrize("text", NUMBERS)
def test_csv_numbers_stay_numbers(text):
    assert read({"caption": [{"difference": text}]})[1] == ["caption", text]


def read(tables):
    return list(csv.reader(io.StringIO(as_csv(tables))))


@pytest.mark.parametrize(
    "text", ["$x$", r"\frac$a_{$", "$\\", r"\$5$", "_hidden", "日本語", "\ud800\x1b", "$" * 500]
)
def test_labels_are_drawn_as_they_are(text, tmp_path: Path):
    figure = Figure()
    axis = figure.subplots()
    axis.plot([1, 2], label=label(text))
    axis.set_title(label(text))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        legend = axis.legend()
        save_figure(figure, tmp_path / "figure.png")
    (shown,) = legend.get_texts()
    drawn, mathematics = shown._preprocess_math(shown.get_text())
    assert mathematics is False
    expected = text.replace("\ud800\x1b", r"\ud800\x1b")
    assert drawn.strip() == (expected if len(text) < 60 else "$" * 59 + "…")


def test_other_warnings_of_figures_are_shown(tmp_path: Path):
    class Odd(Figure):
        def savefig(self, *args, **options):
            warnings.warn("odd", UserWarning, stacklevel=2)

    with pytest.warns(UserWarning, match="odd"):
        save_figure(Odd(), tmp_path / "figure.png")


class Named:
    def __init__(self, arm: str, seed: int) -> None:
        self.identity = arm, seed

    def row(self) -> dict[str, str]:
        return {"arm": self.identity[0]}


def test_captions_and_notes_are_lines(tmp_path: Path):
    groups = {"cap\ntion": [Named("a", 0)]}
    text = write_tables(groups, tmp_path, lambda group: [], lambda group: ["no\nte"])
    assert text.startswith("cap\\ntion\n\n| arm |")
    assert text.endswith("\n\nno\\nte")


def test_two_runs_of_an_arm_and_seed_are_refused(tmp_path: Path):
    with pytest.raises(VkdError, match=r"two runs of arm b at seed 1 \(x\)"):
        write_tables({"x": [Named("b", 1), Named("a", 0), Named("b", 1)]}, tmp_path, lambda _: [])
