"""Networks as ONNX models that are compared with torch before they are written."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_vkd.runtime.errors import VkdError, one_line

MOST = 1e-3  # largest difference from torch's output, divided by the largest output


def to_onnx(
    network: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    output: str,
    facts: Mapping[str, str],
    out: Path,
) -> tuple[bytes, float]:
    """Exports a network with batches of any size, and compares it with torch on the given ones.

    Args:
        network: in eval mode, on the CPU; takes the inputs in their order.
        batches: inputs by name, in batches of several sizes, of which the first is two or more.
            Inputs of no dimension are the same for the whole batch.
        output: name of the output.
        facts: stored as the model's metadata, with the largest difference.
        out: the file that errors name.

    Returns:
        The model, and the largest difference from torch's output, divided by the largest output.

    Raises:
        VkdError: onnx, onnxscript or onnxruntime is missing, torch cannot export the
            network, or the difference exceeds MOST.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise VkdError(f"{out}: {error}; pip install onnx onnxruntime onnxscript") from None
    example, size = batches[0], torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(action="ignore"):  # about names of dimensions
            program = torch.onnx.export(
                network,
                tuple(example.values()),
                input_names=list(example),
                output_names=[output],
                dynamic_shapes=[{0: size} if value.ndim else None for value in example.values()],
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise VkdError(f"{out}: torch cannot export this network ({one_line(error)})") from None
    assert program is not None
    model = program.model_proto

    def run(batch: Mapping[str, Tensor]) -> Tensor:
        given = {name: value.numpy() for name, value in batch.items()}
        return torch.from_numpy(session.run(None, given)[0])

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    difference = 0.0
    for batch in batches:
        with torch.no_grad():
            ours = network(*batch.values())
        found = float((ours - run(batch)).abs().max() / ours.abs().max())
        difference = max(difference, found) if found == found else found
    if not difference < MOST:
        raise VkdError(f"{out}: not written, its {output} differ by {difference:.1e} from torch's")
    for name, text in {**facts, "largest_difference": f"{difference:.3e}"}.items():
        model.metadata_props.add(key=name, value=text)
    return model.SerializeToString(), difference
