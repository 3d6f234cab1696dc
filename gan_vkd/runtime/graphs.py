"""Steps that are captured in CUDA graphs: one launch repeats all kernels of a step.

A replay repeats the kernels of the captured call on the same memory. What Python did in that call
is not repeated, and values of Python are those of that call. A step is therefore captured once for
each `variant`, which stands for everything that the host decides. All state must be updated in
place.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gan_vkd.runtime.errors import one_line

EAGER = 10  # first calls of a variant, which create the state and choose kernels
MOST = 6  # graphs of a step; each keeps its intermediate results in memory

Capture = Callable[[Callable[[], None]], Callable[[], None]]


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Context in which a GPU's work is queued on a stream of its own, as captures require."""
    if not device.startswith("cuda"):
        yield
        return
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Captures a call of the function, without running it, and returns its replay."""
    graph = torch.cuda.CUDAGraph()
    mode = "thread_local"  # another thread may fetch the next batch meanwhile
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode=mode):
        function()
    return graph.replay


class Replayed:
    """A step that is called eagerly at first, and then captured and replayed for each variant.

    If a variant cannot be captured, one line says why and all further calls are eager.

    Args:
        step: returns nothing and updates its state in place. Tensor arguments must keep their
            shapes.
        capture: captures a call and returns its replay; None: all calls are eager.
        after_replay: repeats what a call of `step` counts on the host; called with its arguments.
        after_failure: restores such counts after a capture that failed.
    """

    def __init__(
        self,
        step: Callable[..., None],
        capture: Capture | None,
        after_replay: Callable[..., None] = lambda *args: None,
        after_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.step, self.capture = step, capture
        self.after_replay, self.after_failure = after_replay, after_failure
        self._calls: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, tuple[list[Any], Callable[[], None]]] = {}

    def __call__(self, variant: Hashable | None, *args: Any) -> None:
        """Runs the step.

        Args:
            variant: everything that the host decides in this call; None: run it eagerly.
            args: of the step. Tensors are copied to where the graph reads them; in a replay other
                values are those of the captured call, so `variant` must cover their effect.
        """
        if variant in self.graphs:
            inputs, replay = self.graphs[variant]
            for known, given in zip(inputs, args, strict=True):
                if isinstance(known, Tensor):
                    known.copy_(given)
            replay()
            self.after_replay(*args)
        elif variant is None or not self._capture(variant, args):
            self.step(*args)

    def forget(self) -> None:
        """Releases all graphs, for a change on the host after which no earlier variant occurs."""
        self.graphs.clear()
        self._calls.clear()

    def _capture(self, variant: Hashable, args: tuple[Any, ...]) -> bool:
        """Captures and runs a variant that has been called often enough; returns whether it did."""
        self._calls[variant] += 1
        if self.capture is None or self._calls[variant] <= EAGER:
            return False
        if len(self.graphs) == MOST:
            self._give_up(f"a step has more than {MOST} variants")
            return False
        inputs = [x.clone() if isinstance(x, Tensor) else x for x in args]
        try:
            replay = self.capture(lambda: self.step(*inputs))
        except RuntimeError as error:
            self._give_up(one_line(error.__context__ or error))
            self.after_failure()
            return False
        self.graphs[variant] = inputs, replay
        replay()  # what the host counts has been counted by the capture
        return True

    def _give_up(self, reason: str) -> None:
        tqdm.write(f"CUDA graphs are not used, steps are slower: {reason}")
        self.capture = None
        self.graphs.clear()
