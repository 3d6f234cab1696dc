"""Running, batch and view statistics are taken over the samples of all ranks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_vkd.distill.normalization import Whitening
from tests.distill.normalizations import make_normalization
from tests.distill.samples import correlated, two_views
from tests.processes import on_ranks

NAMES = ["whitening", "whitening_pca", "whitening_cholesky", "phi_s", "standardize"]
CASES = [
    *((name, {}) for name in NAMES),
    *((name, {"statistics": "batch"}) for name in NAMES),
    ("whitening", {"shrinkage": "ledoit_wolf"}),
    ("whitening", {"shrinkage": "oas", "directions": 0.9}),
]


def normalised(part: Callable[[Tensor], Tensor]) -> list[np.ndarray]:
    """Returns the output of each case for a rank's part of the fifth batch, and of fitted views."""
    found = []
    for name, options in CASES:
        module = make_normalization(name, 8, **options)
        for step in range(5):
            last = module(part(correlated(24, 8, seed=step)))
        found.append(last.numpy())
    module = Whitening(8, directions="agreement")
    views = [part(view) for view in two_views(101, torch.linspace(0, 3, 8, dtype=torch.float64))]
    module.fit_views(*views)
    return [*found, module(views[0]).numpy()]


def _rank(rank: int, world: int, file: str, queue: torch.multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", f"file://{file}", rank=rank, world_size=world)
    queue.put((rank, normalised(lambda z: z.tensor_split(world)[rank])))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_several_ranks_equal_one_on_the_whole_batch(world: int, tmp_path: object) -> None:
    found = on_ranks(world, _rank, f"{tmp_path}/store")
    for index, expected in enumerate(normalised(lambda z: z)):
        parts = np.concatenate([found[rank][index] for rank in range(world)])
        np.testing.assert_allclose(parts, expected, atol=1e-5)
