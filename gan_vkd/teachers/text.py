"""Class embeddings in the teacher's feature space, by a text tower or the teacher's classifier."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_vkd.distill import Teacher
from gan_vkd.networks.weights import require_finite
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line
from gan_vkd.runtime.files import user_path
from gan_vkd.teachers.settings import TextSettings


def class_embeddings(settings: TextSettings | None, teacher: Teacher, classes: list[str]) -> Tensor:
    """Class embeddings (C, dt), of unit length unless the text tower's settings disable it.

    Args:
        settings: of the text tower; None takes the rows of the teacher's classifier.
        teacher: on the device where the embeddings are kept.
        classes: names, used where the settings give none; "_" and "-" are read as spaces.

    Raises:
        SettingsError: no names, no such tower, or a teacher without a classifier.
        VkdError: open_clip is not installed, or the weights cannot be loaded.
    """
    if settings is None:
        if teacher.class_rows is None:
            raise SettingsError(
                "distill.method = kd_dlgm: this teacher has no classifier whose rows could be the "
                "class embeddings; set distill.text to a text tower"
            )
        return F.normalize(teacher.class_rows.to(teacher.mean.device), dim=1)
    names = settings.names or [name for name in classes if name]
    if not names:
        raise SettingsError(
            "distill.text.names: needed, since the data has no two class folders to take names from"
        )
    readable = [name.replace("_", " ").replace("-", " ") for name in names]
    return _embed(settings, readable).to(teacher.mean.device)


@torch.no_grad()
def _embed(settings: TextSettings, names: list[str]) -> Tensor:
    """Means over the prompts (C, dt): of raw embeddings, or of unit vectors, normalised again."""
    try:
        import open_clip
    except ImportError:
        raise VkdError("distill.text: needs open_clip: pip install open_clip_torch") from None
    if settings.model not in open_clip.list_models():
        raise SettingsError(f"distill.text.model = {settings.model}: open_clip has no such model")
    path = user_path(settings.weights)
    local = path.is_file()
    if not local and settings.weights not in open_clip.list_pretrained_tags_by_model(
        settings.model
    ):
        raise VkdError(f"distill.text.weights = {settings.weights}: no such file or published tag")
    try:
        with warnings.catch_warnings(action="ignore"):
            model = open_clip.create_model(
                settings.model, pretrained=str(path) if local else settings.weights
            ).eval()
    except Exception as error:  # hub, file and shape errors of many kinds
        reason = one_line(error)
        raise VkdError(
            f"distill.text.weights = {settings.weights}: cannot be loaded ({reason}); set it to "
            "a local copy"
        ) from None
    require_finite(model, f"distill.text.weights = {settings.weights}")
    tokenize = open_clip.get_tokenizer(settings.model)
    prompts = [tokenize([prompt.format(name) for prompt in settings.prompts]) for name in names]
    embedded = torch.stack([model.encode_text(tokens).float() for tokens in prompts])
    if not settings.normalize:
        return embedded.mean(1)
    return F.normalize(F.normalize(embedded, dim=2).mean(1), dim=1)
