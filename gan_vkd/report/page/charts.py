"""Charts of a page: SVG by matplotlib, whose colours are the page's (variables of its CSS)."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from gan_vkd.report.arms import Tables
from gan_vkd.report.figures import label
from gan_vkd.report.page.subject import Subject
from gan_vkd.report.page.views import Series, View
from gan_vkd.report.tables import half_interval

HUES = 8  # colours of arms, --arm0 to --arm7 in page.css
MOST_POINTS = 300  # of a curve: longer ones are means of equally many neighbours
MOST_CHARTS = 80  # of a page
# colours that are drawn, and what they are in the page
DRAWN = {"#000000": "currentColor", "#0000ff": "var(--faint)"} | {
    f"#ff000{hue}": f"var(--arm{hue})" for hue in range(HUES)
}
INK, FAINT, *ARMS = DRAWN
WIDTH, HEIGHT = 4.2, 2.4  # inches
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9.0, "axes.edgecolor": INK, "text.color": INK,
    "grid.color": FAINT, "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.6, "grid.linewidth": 0.5,
}  # fmt: skip
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

# the charts' headings with the names of records below each, and what to know
GROUPS = (
    ("Distances", r"[FK]I?D\b", "To the reference images; lower is better."),
    ("Accuracy", r"top\d|AP", "In percent, on held-out images; higher is better."),
    ("Losses", r".*_loss$", "Means since the record before."),
    (
        "Fidelity and diversity",
        r"(precision|recall|density|coverage|inception_score)",
        "Precision and density: are samples like real images; recall and coverage: are real images "
        "like some sample. Higher is better.",
    ),
    (
        "Copies and leaks",
        r"(memorised|leaked)",
        "Shares of samples that are nearer to a training image than that one is to any other, or "
        "show grey areas of augmentation; by_chance and left_out are those of real images.",
    ),
    (
        "Scores of the discriminator",
        r"(score_|real_score|fake_score|r_v$|scores_not_finite)",
        "r_v is 0 where held-out images are scored like training images, and 1 where like fakes.",
    ),
    (
        "Adaptive augmentation",
        r"ada_",
        "The probability p, and the mean sign of real scores.",
    ),
    (
        "Gradient balance",
        r"(distill_weight|gradient_ratio|gradient_cosine|z_|explained_share)",
        "Of the distillation loss against the adversarial one, at the features that are distilled "
        "into; explained_share: of the teacher's variance on held-out images.",
    ),
    ("Time and memory", r"(ms_per_iteration|images_per_second|memory_gib)", ""),
    ("Others", r"", ""),
)


@dataclass(frozen=True)
class Chart:
    title: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """Charts under one heading, with a sentence about them."""

    title: str
    about: str
    charts: list[Chart]


def hues(views: Sequence[View[Any]]) -> dict[str, int]:
    """The number of the colour of each arm."""
    return {arm: i % HUES for i, arm in enumerate(dict.fromkeys(v.arm for v in views))}


def curves(views: Sequence[View[Any]]) -> list[Section]:
    """A chart for each name in the records, with a line for each run in the colour of its arm."""
    colours, everything = hues(views), [(v.arm, v.series()) for v in views]
    names = list(dict.fromkeys(name for _, series in everything for name in series))[:MOST_CHARTS]
    sections: dict[str, list[Chart]] = {title: [] for title, _, _ in GROUPS}
    for name in names:
        lines = [(ARMS[colours[arm]], series[name]) for arm, series in everything if name in series]
        if max(len(line) for _, line in lines) < 2:
            continue
        title = next(title for title, names, _ in GROUPS if re.match(names, name))
        sections[title].append(Chart(name, _lines(lines)))
    return [Section(title, about, sections[title]) for title, _, about in GROUPS if sections[title]]


def _lines(lines: Sequence[tuple[str, Series]]) -> Markup:
    from matplotlib.ticker import MaxNLocator

    with _axes() as (figure, axes):
        for colour, series in lines:
            iterations, values = zip(*_thinned(series), strict=True)
            axes.plot(iterations, values, color=colour, linewidth=1.2, marker=".", markersize=3)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel("iteration")
        return _svg(figure)


def _thinned(series: Series) -> Series:
    step = -(-len(series) // MOST_POINTS)
    parts = [series[i : i + step] for i in range(0, len(series), step)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def spreads(
    subject: Subject[Any], tables: Sequence[Tables[Any]], colours: dict[str, int]
) -> list[Section]:
    """For each table over seeds a chart of each number that is compared: the last one of each run,
    and for two or more seeds the mean with its 95% interval (Student's t)."""
    found = []
    for table in tables:
        if not table.over_seeds:
            continue
        runs = [(run.identity[0], subject.compared(run)) for run in table.group]
        names = dict.fromkeys(name for _, numbers in runs for name in numbers)
        charts = []
        for name in names:
            arms: dict[str, list[float]] = {}
            for arm, numbers in runs:
                if name in numbers:
                    arms.setdefault(arm, []).append(numbers[name])
            charts.append(Chart(name, _arms(arms, colours)))
        about = (
            "Last evaluation: a dot for each seed; bars are the mean over seeds and its 95% "
            f"interval (Student's t). {table.caption}"
        )
        found.append(Section("Over seeds", about, charts))
    return found


def _arms(arms: dict[str, list[float]], colours: dict[str, int]) -> Markup:
    with _axes() as (figure, axes):
        for place, (arm, values) in enumerate(arms.items()):
            colour = ARMS[colours[arm]]
            axes.plot([place] * len(values), values, "o", color=colour, markersize=4, alpha=0.6)
            if len(values) > 1:
                mean, half = sum(values) / len(values), half_interval(values)
                axes.errorbar(place + 0.2, mean, half, fmt="_", color=colour, capsize=4)
        axes.set_xticks(range(len(arms)), [label(arm, 14) for arm in arms])
        axes.tick_params("x", rotation=0 if len(arms) < 5 else 30)
        axes.set_xlim(-0.5, len(arms) - 0.3)
        return _svg(figure)


@contextmanager
def _axes() -> Iterator[tuple[Any, Any]]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # characters that the font does not have, huge limits
        figure = Figure(figsize=(WIDTH, HEIGHT))
        yield figure, figure.add_axes((0.16, 0.19, 0.82, 0.76))


def _svg(figure: Any) -> Markup:
    """The figure as an element of a page, without identifiers and fonts of its own."""
    import matplotlib

    text = io.StringIO()
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
        axes.tick_params(width=0.6)
    with matplotlib.rc_context({"svg.hashsalt": str(id(figure))}):
        figure.savefig(text, format="svg", metadata=NO_METADATA)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>|<defs>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub("#[0-9a-f]{6}", lambda found: DRAWN.get(found[0], found[0]), svg)
    return Markup(re.sub(r"\s*\n\s*", "\n", svg))
