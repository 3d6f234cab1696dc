"""Import and export of generators, with the parameter names of the published DiffAugment-BigGAN."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from gan_vkd.game.settings import Settings
from gan_vkd.networks.interface import NETWORKS
from gan_vkd.networks.weights import fill, load_foreign, save_pth
from gan_vkd.run import Run
from gan_vkd.runtime.errors import SettingsError, VkdError
from gan_vkd.runtime.files import user_path, write_atomically


def import_generator(weights: Path, settings: Settings, folder: Path) -> None:
    """Creates a run folder from a published generator.

    The number of classes is read from the weights; all classes are assumed equally frequent.

    Raises:
        SettingsError: the folder holds a run already.
        VkdError: not a file of weights, or weights of another width or resolution.
    """
    run = Run(folder)
    if (run.path / "settings.yaml").exists():
        raise SettingsError(f"{run.path}: holds a run already; choose another --out")
    state = load_foreign(user_path(weights))
    gains = state.get("blocks.0.0.bn1.gain.weight")
    if not isinstance(gains, Tensor) or gains.ndim != 2:
        raise VkdError(f"{weights}: not a BigGAN generator of DiffAugment (no class gains in it)")
    classes = 0 if len(gains) == 1 else len(gains)
    generator = NETWORKS.make(settings.model.chosen).generator(settings.data.shape, classes)
    fill(generator, state, str(weights))
    run.write_settings(settings.dump())
    run.export(generator, {"iteration": 0, "shares": [1 / len(gains)] * len(gains)})


def export_generator(folder: Path, out: Path) -> str:
    """Writes the best generator's state dict as .safetensors or .pth, and returns the file's name.

    Its batch norms have standing statistics, or the running ones if `evaluate.batch_norm` is
    running or batch, since a state dict cannot request sampling with the statistics of each batch.

    Raises:
        SettingsError: the file has another suffix.
    """
    state = Run(folder).load_generator("cpu")[0].state_dict()
    if out.suffix == ".safetensors":
        write_atomically(out, lambda file: file.write(save(state)))
    elif out.suffix == ".pth":
        save_pth(out, dict(state))
    else:
        raise SettingsError(f"{out}: expected a name that ends in .safetensors or .pth")
    return str(out)
