"""Students: networks of timm; those with a distillation token get one for each teacher."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import trunc_normal_
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from classification.recognition.network.initial import start_from
from classification.recognition.network.stem import CiT, ConvStem, MeanToTokens, TwoStems
from classification.recognition.settings import StudentSettings
from gan_vkd.distill import Layer, Reader
from gan_vkd.runtime.errors import SettingsError, VkdError, one_line


class Outputs(NamedTuple):
    """A student's outputs for B images.

    logits: (B, C), of the class token. distilled: logits (B, C) of each distillation token; empty
    for students without. features, patches: (B, d), the mean of ALL tokens, and the mean of the
    patch tokens; both are the pooled features of a CNN. early: (B, N, d) patch tokens or
    (B, d, H, W) maps of each early layer.
    """

    logits: Tensor
    distilled: list[Tensor]
    features: Tensor
    patches: Tensor
    early: list[Tensor]


class Student(nn.Module):
    """A timm network that is read for distillation and predicts as in timm.

    Args:
        network: a network of timm.
        layers: names of early layers to read.

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
        self.frozen: list[nn.Module] = []  # parts that stay in eval mode, by layers.freeze
        self.channels_last = getattr(network, "output_fmt", None) == "NHWC"  # as Swin

    def train(self, mode: bool = True) -> "Student":
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @torch.no_grad()
    def widths(self, resolution: int) -> tuple[int, list[int]]:
        """The widths of the features and of the early layers.

        Raises:
            SettingsError: the network does not accept images of this size.
        """
        training = self.network.training
        try:
            outputs = self.eval().read(torch.zeros(1, 3, resolution, resolution))
        except (AssertionError, RuntimeError) as error:
            raise SettingsError(
                f"data.resolution = {resolution}: does not fit the student ({one_line(error)}); "
                "set it, or student.options.img_size"
            ) from None
        self.train(training)
        early = [x.shape[2] if x.ndim == 3 else x.shape[1] for x in outputs.early]
        return outputs.features.shape[1], early

    def read(self, images: Tensor) -> Outputs:
        """Normalised images (B, 3, R, R) -> all outputs that losses use."""
        network = self.network
        with self.reader:
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
        outputs = self.read(images)
        return torch.stack([outputs.logits, *outputs.distilled]).mean(0)


def build_student(
    settings: StudentSettings,
    classes: int,
    tokens: int,
    layers: Sequence[str] = (),
    drop_path: float | None = None,
) -> Student:
    """Builds the student that the settings name.

    Args:
        settings: name, options of timm.create_model, initial weights.
        classes: C.
        tokens: number of distillation tokens, for networks that have any; CiT's student has two.
        layers: names of early layers to read.
        drop_path: overrides the rate of the settings.

    Raises:
        SettingsError: unknown model, option or layer.
        VkdError: weights that are missing or do not fit.
    """
    import timm

    tokens = 2 if settings.stem == "cit" else tokens
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
        if published and (several or settings.stem != "patch"):
            raise ValueError("weights = published: needs stem = patch and at most one teacher")
        if several:
            _add_tokens(network, tokens)
        if settings.stem != "patch":
            _replace_stem(network, settings.stem)
        student = Student(network, layers)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        reason = one_line(error)
        raise SettingsError(f"student: {settings.name} cannot be built: {reason}") from None
    except Exception as error:  # hub and network errors of many kinds
        reason = one_line(error)
        raise VkdError(
            f"{settings.name}: its weights could not be fetched ({reason}); set student.weights "
            "to a local copy, or to null"
        ) from None
    if settings.weights is not None and not published:
        start_from(network, settings.weights)
    return student


def _replace_stem(network: Any, stem: str) -> None:
    """Replaces the projection of patches by CiT's convolutional stem, or by both of its stems."""
    if not isinstance(network, VisionTransformer) or network.patch_embed.patch_size[0] % 2:
        raise ValueError("another stem than patch needs a ViT with an even patch size")
    size = network.embed_dim, network.patch_embed.patch_size[0]
    distilled = isinstance(network, VisionTransformerDistilled)
    if stem == "cit":
        if not distilled:
            raise ValueError("stem = cit needs a ViT with distillation tokens")
        network.__class__ = CiT
        network.patch_embed = TwoStems(*size, network.patch_embed.grid_size)
        del network.dist_token
        return
    network.patch_embed.proj = ConvStem(*size)
    if distilled:
        network.norm_pre = MeanToTokens(network.num_prefix_tokens - 1)


def _add_tokens(network: Any, tokens: int) -> None:
    """Replaces DeiT's distillation token and head by several, as in CiT."""
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
