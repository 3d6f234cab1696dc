"""The Markdown file of benchmarks/gpu.py, from the results that are there so far."""

from collections.abc import Mapping
from typing import Any

from gpu_setup import BEST, COMPILED, MEASURED, Setup

from gan_vkd.report.tables import Row, markdown

Results = Mapping[str, dict[str, Any]]
PUBLISHED, D_STEPS, ITERATIONS, EVALUATIONS = "published", 4, 125_000, 32
MISSING: dict[str, Any] = {"error": "not measured yet"}
RATES = {BEST: "bfloat16", COMPILED: "bfloat16"}  # whose matrix products a variant computes


def report(results: Results, setup: Setup, command: str, commit: str) -> str:
    """Returns the whole file; parts without a result say why."""
    parts = [
        "# Training on one GPU",
        f"Command: `{command}`, commit {commit}. BigGAN for CIFAR-10 at ch {setup.ch}, batch "
        f"{setup.batch} + {setup.batch}, {D_STEPS} discriminator updates per iteration; "
        f"{setup.images:,} images.",
        _machine(results),
        "## Tests marked `cuda`",
        _or_error(results, "tests", lambda found: _fenced(found["lines"])),
        "## Steps",
        _steps(results, setup),
        "## The published length",
        _length(results),
        "## Evaluation",
        _or_error(results, "evaluation", _evaluation),
        "## Several runs at once",
        _at_once(results, setup),
        "## Kernels of an iteration",
        *(_kernels(results, name) for name in ("published", "bfloat16, graph")),
    ]
    return "\n\n".join(parts) + "\n"


def _or_error(results: Results, name: str, show: Any) -> str:
    found = results.get(name, MISSING)
    return f"{name}: {found['error']}" if "error" in found else show(found)


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _machine(results: Results) -> str:
    def show(found: dict[str, Any]) -> str:
        rates = ", ".join(f"{rate:.1f} in {name}" for name, rate in found["tflops"].items())
        text = (
            f"{found['device']}; {found['software']}. Measured rates of matrix products: {rates} "
            f"TFLOP/s; copying: {found['gigabytes']:.0f} GB/s, read and written."
        )
        if found["invented"]:
            text += f" Random, since they were not at hand: {', '.join(found['invented'])}."
        return text

    return _or_error(results, "machine", show)


def _steps(results: Results, setup: Setup) -> str:
    theirs = results.get(PUBLISHED, MISSING)
    base, faults = theirs.get("iteration"), [f"{PUBLISHED}: {theirs.get('error', '')}"]
    rows = [_row("published, eager", "float32", theirs, {}, base, setup)]
    for arm, variant in MEASURED:
        counted = results.get(f"{arm}, float32", MISSING)
        found = results.get(f"{arm}, {variant}", MISSING)
        rows.append(_row(arm, variant, found, counted, base, setup))
        faults.append(f"{arm}, {variant}: {found.get('error', '')}")
    rates = results.get("machine", MISSING).get("tflops", {})
    for row in rows:
        rate = rates.get(RATES.get(row["precision"], row["precision"]))
        done = row["TFLOP/s"]
        row["of the matrix rate"] = f"{100 * float(done) / rate:.1f}%" if done and rate else ""
    notes = (
        "Iterations are timed in the training loop, with records; steps and the published "
        "iteration as the median of five blocks of calls. An image counts once per update: real "
        "ones for D steps and iterations, generated ones for G steps. TFLOP/s: operations of "
        "convolutions and matrix products in the eager step, by torch.utils.flop_counter, over "
        "the time of the iteration; the teacher's are included. Memory: the largest allocated, in "
        "GiB, with the data and a judge. Speed: of the iteration, relative to the published "
        "one. In a graph only the whole iteration can be timed."
    )
    listed = "\n".join(f"- {fault}" for fault in faults if not fault.endswith(": "))
    return "\n\n".join(filter(None, [markdown(rows), listed, notes]))


def _row(
    arm: str,
    variant: str,
    found: dict[str, Any],
    counted: dict[str, Any],
    base: float | None,
    setup: Setup,
) -> Row:
    """A row of the table; `counted` has the operations where `found` has none."""
    row = {"run": arm, "precision": variant}
    for name, images in (("d_step", 1), ("g_step", 1), ("iteration", D_STEPS)):
        title, ms = name.replace("_", " "), found.get(name)
        row[f"{title}, ms"] = f"{ms:.2f}" if ms else ""
        row[f"{title}, images/s"] = f"{1000 * images * setup.batch / ms:,.0f}" if ms else ""
    ms = found.get("iteration")
    work = found.get("tflop") or counted.get("tflop")
    row["TFLOP/s"] = f"{1000 * work / ms:.4g}" if ms and work else ""
    row["of the matrix rate"] = ""
    row["GiB"] = f"{found['memory']:.2f}" if "memory" in found else ""
    row["speed"] = f"{base / ms:.2f}" if base and ms else ""
    return row


def _length(results: Results) -> str:
    def show(found: dict[str, Any]) -> str:
        minutes = found["iteration"] * ITERATIONS / 60_000
        text = (
            f"Cached features, bfloat16 in a graph, {found['seconds']:.0f} s of steady state with "
            f"records: {found['iteration']:.2f} ms per iteration, so {minutes:.1f} minutes for "
            f"{ITERATIONS:,} iterations"
        )
        seconds = results.get("evaluation", MISSING).get("evaluations")
        if not seconds:
            return f"{text}, without evaluations."
        both = minutes + EVALUATIONS * seconds[-1] / 60
        return f"{text}, {both:.1f} with {EVALUATIONS} evaluations of {seconds[-1]:.1f} s."

    text = _or_error(results, "steady state", show)
    theirs = results.get(PUBLISHED, MISSING).get("iteration")
    if theirs:
        hours = theirs * ITERATIONS / 3_600_000
        text += f"\n\nThe published iteration takes {theirs:.2f} ms, so {hours:.1f} hours."
    return text


def _evaluation(found: dict[str, Any]) -> str:
    first, second = found["evaluations"]
    return (
        f"{found['samples']:,} samples by {', '.join(found['judges'])}, all metrics and the "
        f"scores: {first:.1f} s, again {second:.1f} s."
    )


def _at_once(results: Results, setup: Setup) -> str:
    lines, rows = [], []
    for name in ("without MPS", "with MPS"):
        found = results.get(f"runs at once, {name}", MISSING)
        if "error" in found:
            lines.append(f"{name}: {found['error']}")
            continue
        alone = found["rates"]["1"]
        rows += [
            {
                "runs": count,
                "": name,
                "iterations/s": f"{rate:.2f}",
                "images/s": f"{rate * D_STEPS * setup.batch:,.0f}",
                "of one run": f"{rate / alone:.2f}",
            }
            for count, rate in found["rates"].items()
        ]
    table = [markdown(rows)] if rows else []
    about = "Cached features, bfloat16 in a graph, one process per run; totals of all runs."
    return "\n\n".join([about, *table, *lines])


def _kernels(results: Results, name: str) -> str:
    def show(found: dict[str, Any]) -> str:
        rows = [
            {
                "kernel": row["kernel"][:90],
                "calls": f"{row['calls']:.0f}",
                "ms": f"{row['ms']:.3f}",
                "share": f"{100 * row['ms'] / found['total']:.1f}%",
            }
            for row in found["rows"]
        ]
        text = (
            f"{name}: {found['wall']:.2f} ms per iteration, of which {found['total']:.2f} ms in "
            f"{found['launches']:.0f} kernels."
        )
        return f"{text}\n\n{markdown(rows)}" if rows else text

    return _or_error(results, f"kernels, {name}", show)
