"""Tables of runs: Markdown and CSV, means over seeds, differences with confidence.

Names in them, such as arms and judges, may be a stranger's.
"""

import csv
import io
import re
import statistics

from gan_vkd.runtime.terminal import plain

Row = dict[str, str]
# What a spreadsheet would calculate, but for numbers as this module writes them
FORMULA = re.compile(r"[=@\t]|[+-](?![\d.]+( \([\w .+-]*\))?$)")


def in_line(text: str) -> str:
    """The text on one line: tabs, line breaks and control characters as escapes."""
    return re.sub("[\t\n\u2028\u2029]", lambda found: repr(found[0])[1:-1], plain(text))


def mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def half_interval(values: list[float]) -> float:
    """Half the width of the 95% interval of the mean of two or more values (Student's t)."""
    from scipy.special import stdtrit

    n = len(values)
    return float(stdtrit(n - 1, 0.975) * statistics.stdev(values) / n**0.5)


def confidence(differences: list[float]) -> str:
    """The mean difference, and for several differences its 95% interval (Student's t)."""
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return f"{mean:+.3f}"
    half = half_interval(differences)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def complete(rows: list[Row]) -> list[Row]:
    """Gives every row all columns, in the order of the row with the most."""
    columns = dict.fromkeys(c for row in sorted(rows, key=len, reverse=True) for c in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def markdown(rows: list[Row]) -> str:
    lines = [
        [in_line(text).replace("|", r"\|") for text in texts]
        for texts in (rows[0], *(row.values() for row in rows))
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    shown.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(shown)


def as_csv(tables: dict[str, list[Row]]) -> str:
    """The tables below each other; text that a spreadsheet would calculate begins with "'"."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for caption, rows in tables.items():
        lines = [["measure", *rows[0]], *([caption, *row.values()] for row in rows)]
        writer.writerows([_not_calculated(text) for text in line] for line in lines)
    return text.getvalue()


def _not_calculated(text: str) -> str:
    return ("'" if FORMULA.match(text) else "") + in_line(text)
