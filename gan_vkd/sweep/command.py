"""What the command lines' `sweep` does."""

from collections.abc import Callable
from pathlib import Path

from gan_vkd.runtime.errors import VkdError
from gan_vkd.sweep.local import sweep
from gan_vkd.sweep.plan import Program, read_arguments
from gan_vkd.sweep.slurm import submit


def sweep_and_compare(
    program: Program,
    arguments: list[str],
    seeds: list[str] | None,
    jobs: int,
    out: Path,
    slurm: str | None,
    compare: Callable[[list[Path]], None],
) -> None:
    """All runs here, then the table; or a SLURM job a run.

    Raises:
        VkdError: a run failed; those that did not are compared.
    """
    configs, numbers, overrides = read_arguments(arguments, seeds)
    if slurm is not None:
        submit(program, configs, numbers, out, overrides, slurm)
        return
    finished = sweep(program, configs, numbers, out, overrides, jobs)
    if finished:
        compare(finished)
    failed = len(configs) * len(numbers) - len(finished)
    if failed:
        raise VkdError(f"{out}: {failed} runs failed, see above; call again to go on with them")
