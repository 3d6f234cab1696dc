"""Tables of runs: Markdown and CSV, means over seeds, differences with confidence."""

import csv
import io
import statistics

from scipy.special import stdtrit

Row = dict[str, str]


def mean_and_deviation(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.3f}"


def confidence(differences: list[float]) -> str:
    """The mean difference, and for several differences its 95% interval (Student's t)."""
    n, mean = len(differences), statistics.fmean(differences)
    if n == 1:
        return f"{mean:+.3f}"
    half = stdtrit(n - 1, 0.975) * statistics.stdev(differences) / n**0.5
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def complete(rows: list[Row]) -> list[Row]:
    """Gives every row all columns, in the order of the row with the most."""
    columns = dict.fromkeys(c for row in sorted(rows, key=len, reverse=True) for c in row)
    return [{column: row.get(column, "") for column in columns} for row in rows]


def markdown(rows: list[Row]) -> str:
    columns = list(rows[0])
    widths = {c: max(len(c), *(len(row[c]) for row in rows)) for c in columns}
    lines = [
        "| " + " | ".join(row[c].ljust(widths[c]) for c in columns) + " |"
        for row in [dict(zip(columns, columns, strict=True)), *rows]
    ]
    lines.insert(1, "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|")
    return "\n".join(lines)


def as_csv(tables: dict[str, list[Row]]) -> str:
    text = io.StringIO()
    for caption, rows in tables.items():
        writer = csv.DictWriter(text, ["measure", *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"measure": caption} | row for row in rows)
    return text.getvalue()
