"""Students: timm's networks, with a distillation token for each teacher where they have one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timm.layers import trunc_normal_
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from classification.recognition.network.stem import ConvStem, MeanToTokens
from classification.recognition.settings import StudentSettings
from gan_vkd.distill import Layer, Reader
from gan_vkd.networks.weights import fill, load_foreign, unwrapped
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line


class Outputs(NamedTuple):
    """What a student says of B images.

    logits: (B, C), of the class token. distilled: (B, C) of each distillation token; empty for
    students without. features, patches: (B, d), the mean of ALL tokens, and that of the patch
    tokens; a CNN's pooled features are both. early: (B, N, d) patch tokens or (B, d, H, W) maps of
    the layers that were asked for.
    """

    logits: Tensor
    distilled: list[Tensor]
    features: Tensor
    patches: Tensor
    early: list[Tensor]


class Student(nn.Module):
    """A timm network that is read for distillation and predicts as timm's own does.

    Args:
        network: of timm.
        layers: early layers to read.

    Raises:
        ValueError: no such layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.network: Any = network
        self.prefix: int = getattr(network, "num_prefix_tokens", 0)
        tokens = isinstance(network, VisionTransformerDistilled)
        heads: Any = network.head_dist if tokens else []
        self.distilled_heads = list(heads) if isinstance(heads, nn.ModuleList) else [heads] * tokens
        self.reader = Reader(network, [Layer(name, "all", self.prefix) for name in layers])
        self.channels_last = getattr(network, "output_fmt", None) == "NHWC"  # as Swin

    @torch.no_grad()
    def widths(self, resolution: int) -> tuple[int, list[int]]:
        """Of the features, and of the early layers.

        Raises:
            SettingsError: a network for images of another size.
        """
        training = self.network.training
        try:
            said = self.eval().read(torch.zeros(1, 3, resolution, resolution))
        except (AssertionError, RuntimeError) as error:
            raise SettingsError(
                f"data.resolution = {resolution}: not for this student ({one_line(error)}); set "
                "it, or student.options.img_size"
            ) from None
        self.train(training)
        early = [x.shape[2] if x.ndim == 3 else x.shape[1] for x in said.early]
        return said.features.shape[1], early

    def read(self, images: Tensor) -> Outputs:
        """Normalised images (B, 3, R, R) -> all that is taught."""
        network = self.network
        x = network.forward_features(images)
        early = [self.channels_first(x) for x in self.reader.take()]
        if x.ndim != 3:
            pooled = network.forward_head(x, True)
            return Outputs(network.forward_head(x), [], pooled, pooled, early)
        means = x.mean(1), x[:, self.prefix :].mean(1)
        if not self.distilled_heads:
            return Outputs(network.forward_head(x), [], *means, early)
        tokens = network.head_drop(x)
        distilled = [head(tokens[:, 1 + k]) for k, head in enumerate(self.distilled_heads)]
        return Outputs(network.head(tokens[:, 0]), distilled, *means, early)

    def channels_first(self, x: Tensor) -> Tensor:
        """A map of the network as (B, d, H, W)."""
        return x.permute(0, 3, 1, 2) if self.channels_last and x.ndim == 4 else x

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, R, R) -> the mean of all heads' logits (B, C), as in DeiT."""
        said = self.read(images)
        return torch.stack([said.logits, *said.distilled]).mean(0)


def build_student(
    settings: StudentSettings,
    classes: int,
    tokens: int,
    layers: Sequence[str] = (),
    drop_path: float | None = None,
) -> Student:
    """The student that the settings name.

    Args:
        settings: name, options of timm.create_model, weights to start from.
        classes: C.
        tokens: distillation tokens, where the network has any.
        layers: early layers that are taught.
        drop_path: instead of that of the settings.

    Raises:
        SettingsError: no such model, option or layer.
        VkdError: weights that are missing or do not fit.
    """
    import timm

    rate = settings.drop_path if drop_path is None else drop_path
    options: dict[str, Any] = {str(name): value for name, value in settings.options.items()}
    options |= {"drop_path_rate": rate} if rate else {}
    if not timm.is_model(settings.name.split(".")[0]):
        near = timm.list_models(f"*{settings.name.split('_')[0]}*")[:5]
        hint = f"; it has {', '.join(near)}" if near else ""
        raise SettingsError(f"student.name = {settings.name}: timm has no such model{hint}")
    published = settings.weights == "published"
    try:
        network = timm.create_model(
            settings.name, pretrained=published, num_classes=classes, **options
        )
        several = isinstance(network, VisionTransformerDistilled) and tokens > 1
        if published and (several or settings.stem == "conv"):
            raise ValueError("weights = published have one distillation token and stem = patch")
        if several:
            _give_tokens(network, tokens)
        if settings.stem == "conv":
            _give_stem(network)
        student = Student(network, layers)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = one_line(error)
        raise SettingsError(f"student: {settings.name} cannot be built so: {reason}") from None
    except Exception as error:  # hub and network errors of many kinds
        reason = one_line(error)
        raise VkdError(
            f"{settings.name}: its weights could not be fetched ({reason}); set student.weights "
            "to a local copy, or to null"
        ) from None
    if settings.weights is not None and not published:
        saved = load_foreign(Path(settings.weights).expanduser())
        fill(network, unwrapped(saved), settings.weights)
    return student


def _give_stem(network: Any) -> None:
    """CiT's, in the place of the projection of patches."""
    if not isinstance(network, VisionTransformer) or network.patch_embed.patch_size[0] % 2:
        raise ValueError("stem = conv needs a ViT with patches of an even side")
    network.patch_embed.proj = ConvStem(network.embed_dim, network.patch_embed.patch_size[0])
    if isinstance(network, VisionTransformerDistilled):
        network.norm_pre = MeanToTokens(network.num_prefix_tokens - 1)


def _give_tokens(network: Any, tokens: int) -> None:
    """Several distillation tokens and heads, as in CiT, in the place of DeiT's one."""
    width, patches = network.embed_dim, network.patch_embed.num_patches
    network.num_prefix_tokens = 1 + tokens
    network.dist_token = nn.Parameter(torch.zeros(1, tokens, width))
    network.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens + patches, width))
    for parameter in (network.dist_token, network.pos_embed):
        trunc_normal_(parameter, std=0.02)
    heads = [nn.Linear(width, network.num_classes) for _ in range(tokens)]
    for head in heads:
        trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    network.head_dist = nn.ModuleList(heads)
