"""Import and export of networks, with the parameter names of the published code.

BigGAN: of DiffAugment; StyleGAN2: of StyleGAN2-ADA.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from gan_vkd.game.settings import Settings
from gan_vkd.networks.generator_onnx import generator_to_onnx
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.stylegan2.published import FIRST, described, without_other_filters
from gan_vkd.networks.weights import fill, load_networks, save_pth
from gan_vkd.run import Run
from gan_vkd.runtime.checkpoint import save_weights
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path, write_atomically
from gan_vkd.runtime.settings_file import validated


def import_generator(weights: Path, settings: Settings, folder: Path) -> None:
    """Creates a run folder from published weights of BigGAN or StyleGAN2.

    All classes are assumed equally frequent; their number is read from the weights, and with
    StyleGAN2 resolution and widths as well. A discriminator in the file is kept for `init_from`.

    Raises:
        SettingsError: the folder holds a run already, or the settings are of another architecture.
        VkdError: not a file of weights, or weights of another width or resolution.
    """
    run = Run(folder)
    if (run.path / "settings.yaml").exists():
        raise SettingsError(f"{run.path}: holds a run already; choose another --out")
    parts, where = load_networks(user_path(weights)), str(weights)
    state, beside = parts.get("average", {}), parts.get("discriminator")
    if FIRST in state:
        settings, classes = _of_stylegan2(settings, state, beside, where)
    else:
        classes = _classes_of_biggan(state, where)
    network = NETWORKS.make(settings.model.chosen)
    generator = network.generator(settings.data.shape, classes)
    fill(generator, without_other_filters(state, generator.state_dict(), where), where)
    discriminator = network.discriminator(settings.data.shape, classes)
    if beside is not None:
        own = discriminator.state_dict()
        fill(discriminator, without_other_filters(beside, own, where), where)
    run.write_settings(settings.dump())
    count = max(classes, 1)
    run.export(generator, {"iteration": 0, "shares": [1 / count] * count})
    if beside is not None:
        save_weights(run.discriminator_file, discriminator.state_dict(), {"classes": classes})


def _classes_of_biggan(state: dict[str, Any], where: str) -> int:
    gains = state.get("blocks.0.0.bn1.gain.weight")
    if not isinstance(gains, Tensor) or gains.ndim != 2:
        raise VkdError(f"{where}: neither a BigGAN generator of DiffAugment nor one of StyleGAN2")
    return 0 if len(gains) == 1 else len(gains)


def _of_stylegan2(
    settings: Settings, state: dict[str, Any], beside: dict[str, Any] | None, where: str
) -> tuple[Settings, int]:
    """Returns the settings with the resolution and options of the weights, and their classes."""
    if settings.model.name != "stylegan2":
        name = settings.model.name
        raise SettingsError(f"{where}: weights of StyleGAN2, but model = {name}")
    try:
        shape, classes, options = described(state, beside)
    except ValueError as error:
        raise VkdError(f"{where}: {error}") from None
    if settings.data.channels not in ("auto", shape.channels):
        asked = settings.data.channels
        raise SettingsError(f"{where}: of {shape.channels} channels, but data.channels = {asked}")
    square = shape.height == shape.width
    tree = settings.model_dump(mode="json")
    tree["data"]["resolution"] = shape.height if square else [shape.height, shape.width]
    tree["data"]["channels"] = shape.channels
    tree["model"] |= options
    return validated(Settings, tree, where), classes


def export_generator(folder: Path, out: Path) -> str:
    """Writes the best generator, and returns a line about the file.

    .safetensors and .pth have its state dict, .onnx is a model for onnxruntime. Its batch norms
    have standing statistics, or the running ones if `evaluate.batch_norm` is running or batch,
    since a file cannot request sampling with the statistics of each batch.

    Raises:
        SettingsError: the file has another suffix.
        VkdError: onnx is not installed, or the ONNX model makes other images than torch.
    """
    generator, facts = Run(folder).load_generator("cpu")
    state = generator.state_dict()
    if out.suffix == ".safetensors":
        write_atomically(out, lambda file: file.write(save(state)))
    elif out.suffix == ".pth":
        save_pth(out, dict(state))
    elif out.suffix == ".onnx":
        model, difference = generator_to_onnx(generator, facts, out)
        write_atomically(out, lambda file: file.write(model))
        return f"{out}: images within {difference:.1e} of torch's"
    else:
        raise SettingsError(f"{out}: expected a name that ends in .safetensors, .pth or .onnx")
    return str(out)
