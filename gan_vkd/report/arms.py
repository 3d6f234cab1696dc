"""Tables of runs by arm and seed, for any task."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from gan_vkd.report.tables import Row, as_csv, complete, in_line, markdown
from gan_vkd.runtime.errors import VkdError
from gan_vkd.runtime.files import write_text


class Compared(Protocol):
    """A run in a table."""

    @property
    def identity(self) -> tuple[str, int]:
        """Arm and seed."""
        ...

    def row(self) -> Row: ...


Run = TypeVar("Run", bound=Compared)


def by_arm(group: list[Run]) -> dict[str, list[Run]]:
    arms: dict[str, list[Run]] = {}
    for run in group:
        arms.setdefault(run.identity[0], []).append(run)
    return arms


def over_seeds(
    group: list[Run], baseline: str, row: Callable[[list[Run], list[tuple[Run, Run]]], Row]
) -> list[Row]:
    """One row for each arm, over its seeds; no rows where every arm has one seed.

    Args:
        group: runs in one table.
        baseline: the arm that the others are compared with.
        row: (the arm's runs, its pairs of a run and the baseline's at the same seed) -> columns;
            there are no pairs for the baseline itself.
    """
    arms = by_arm(group)
    if all(len(runs) == 1 for runs in arms.values()):
        return []
    bases = {run.identity[1]: run for run in arms.get(baseline, [])}
    pairs = {
        arm: [(r, bases[r.identity[1]]) for r in runs if arm != baseline and r.identity[1] in bases]
        for arm, runs in arms.items()
    }
    return complete([{"arm": arm} | row(runs, pairs[arm]) for arm, runs in arms.items()])


class Tables(NamedTuple, Generic[Run]):
    """The tables of comparable runs: over seeds (empty where every arm has one) and of each run,
    with lines below them."""

    caption: str
    group: list[Run]
    over_seeds: list[Row]
    runs: list[Row]
    notes: list[str]


def tables(
    groups: dict[str, list[Run]],
    spread: Callable[[list[Run]], list[Row]],
    notes: Callable[[list[Run]], list[str]] = lambda group: [],
) -> list[Tables[Run]]:
    """Makes the tables of each group.

    Args:
        groups: the runs of each table by its caption.
        spread: a group -> rows of the table over seeds.
        notes: a group -> lines below its tables.

    Raises:
        VkdError: two runs of one arm and seed in one table.
    """
    for caption, group in groups.items():
        (identity, count), *_ = Counter(run.identity for run in group).most_common(1)
        if count > 1:
            arm, seed = identity
            raise VkdError(f"two runs of arm {arm} at seed {seed} ({caption}): set another arm")
    return [
        Tables(caption, group, spread(group), complete([run.row() for run in group]), notes(group))
        for caption, group in groups.items()
    ]


def write_tables(
    groups: dict[str, list[Run]],
    out: Path,
    spread: Callable[[list[Run]], list[Row]],
    notes: Callable[[list[Run]], list[str]] = lambda group: [],
) -> str:
    """Writes table.md and table.csv into `out` and returns the tables as Markdown; see `tables`."""
    made, parts = tables(groups, spread, notes), list[str]()
    for table in made:
        shown = [rows for rows in (table.over_seeds, table.runs) if rows]
        parts += [in_line(table.caption), *map(markdown, shown), *map(in_line, table.notes)]
    text = "\n\n".join(parts)
    write_text(out / "table.md", text + "\n")
    write_text(out / "table.csv", as_csv({table.caption: table.runs for table in made}))
    return text
