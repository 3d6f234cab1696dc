"""Networks in the layout of huggingface_hub: config.json, model.safetensors, README.md.

A folder of this layout is loaded as a repository of the Hub is, and may be a stranger's: its facts
are checked by a schema, and its weights are tensors only.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import save
from torch import Tensor, nn

from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.facts import Facts, checked
from gan_vkd.runtime.files import read_text, reason, user_path, write_atomically, write_text

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
MOST = 2**24  # bytes of config.json and README.md


class HubModel(nn.Module, ModelHubMixin, library_name="gan_vkd"):
    """Base class: `save_pretrained`, `push_to_hub` and `from_pretrained` of huggingface_hub.

    Args:
        network: is put in eval mode.
        facts: JSON values that the network is built from, and others.
        card: text of README.md, which is written where there is none yet.
    """

    schema: ClassVar[type[Facts]]

    def __init__(self, network: nn.Module, facts: dict[str, Any], card: str = "") -> None:
        super().__init__()
        self.network, self.facts, self.card = network, facts, card
        self.eval()

    @classmethod
    def build(cls, facts: dict[str, Any], weights: Path) -> nn.Module:
        """Builds the network of checked facts, with its weights, frozen.

        Raises:
            VkdError: weights that are missing, damaged, not finite or of another network.
        """
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """The state dict that is saved."""
        return self.network.state_dict()

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu", **download: Any) -> Self:  # type: ignore[override]
        """Loads a folder, or a repository of the Hub.

        Args:
            source: path of a folder; otherwise the name of a repository, OWNER/NAME.
            device: where the network is put.
            download: options of `huggingface_hub.snapshot_download`, such as revision or token.

        Raises:
            VkdError: files that are missing, damaged or of another kind, or a repository that
                cannot be fetched.
        """
        folder = user_path(source)
        if not folder.is_dir():
            wanted = [CONFIG, WEIGHTS, CARD]
            try:
                folder = Path(snapshot_download(str(source), allow_patterns=wanted, **download))
            except Exception as error:  # of the name, the network, the server or the disk
                raise VkdError(
                    f"{source}: no such folder, and not fetched from the Hub ({one_line(error)})"
                ) from None
        file = folder / CONFIG
        try:
            found = json.loads(read_text(file, MOST))
        except (ValueError, RecursionError):
            raise VkdError(f"{file}: not JSON") from None
        facts = checked(cls.schema, found, file)
        network = cls.build(facts, folder / WEIGHTS).to(device)
        card = folder / CARD
        return cls(network, facts, read_text(card, MOST) if card.is_file() else "")

    def export(self, out: Path) -> str:
        """Writes a folder, and returns a line that says what is left to do.

        Raises:
            VkdError: it cannot be written.
        """
        kept = (out / CARD).exists()
        try:
            self.save_pretrained(out)
        except OSError as error:
            raise VkdError(f"{out}: cannot be written ({reason(error)})") from None
        said = "its README.md is kept" if kept else "state the licence in its README.md"
        return f"{out}: {said}, then: hf upload OWNER/NAME {out}"

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.weights().items()}
        write_text(save_directory / CONFIG, json.dumps(self.facts, indent=2) + "\n")
        write_atomically(
            save_directory / WEIGHTS, lambda file: file.write(save(tensors, {"format": "pt"}))
        )
        if self.card and not (save_directory / CARD).exists():
            write_text(save_directory / CARD, self.card)
