"""The network: published sizes and names, Swin's features, attention of the [DET] tokens."""

import json
import math

import pytest
import timm
import torch

from classification.detection.network.published import body_from_swin, from_published, to_published
from classification.detection.network.swin import (
    Attention,
    Size,
    relative_position_index,
    shift_bias,
    sine_position,
)
from classification.detection.network.vidt import NeckLayer, ViDT, share_inside
from tests.real_data import SHARED, needs_shared

MILLIONS = {"nano": 15.73, "tiny": 37.96, "small": 60.47, "base": 99.96}
SMALL = Size(16, (1, 2, 2, 1), (1, 2, 4, 8), 0.0)


@pytest.mark.parametrize("size", MILLIONS)
def test_published_numbers_of_parameters(size: str) -> None:
    with torch.device("meta"):
        detector = ViDT(size)
    assert round(sum(p.numel() for p in detector.parameters()) / 1e6, 2) == MILLIONS[size]


@needs_shared
@pytest.mark.parametrize("size", MILLIONS)
def test_a_published_checkpoint_converts_both_ways(size: str) -> None:
    name = "base_win7_22k" if size == "base" else size
    listed = json.loads((SHARED / "reference" / f"vidt_swin_{name}.json").read_text())
    generator = torch.Generator().manual_seed(0)
    theirs = {k: torch.randn(shape, generator=generator) for k, shape in listed.items()}
    for k in theirs:
        if k.endswith("relative_position_index"):
            theirs[k] = relative_position_index()
        if k.startswith("transformer.decoder.bbox_embed."):
            theirs[k] = theirs[k.removeprefix("transformer.decoder.")]
    with torch.device("meta"):
        detector = ViDT(size)
    ours = from_published(theirs)
    detector.load_state_dict(ours, assign=True)
    back = to_published(detector.state_dict())
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[k], theirs[k]) for k in theirs)


def test_conversion_to_published_names_and_back_keeps_ours() -> None:
    state = ViDT(SMALL, 5, queries=3, width=32, layers=1).state_dict()
    assert from_published(to_published(state)).keys() == state.keys()


def test_patch_tokens_are_those_of_timms_swin() -> None:
    torch.manual_seed(0)
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=448, embed_dim=24, depths=(1, 2, 2, 2),
        num_heads=(1, 2, 4, 8), pretrained=False,
    ).eval()  # fmt: skip
    detector = ViDT(Size(24, (1, 2, 2, 2), (1, 2, 4, 8), 0.0), queries=3, width=32).eval()
    state = body_from_swin(network.state_dict(), merges_first=True)
    missing, unexpected = detector.body.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("det_" in name or name.startswith("stages.3.merge") for name in missing)
    images = torch.randn(2, 3, 448, 448)
    with torch.no_grad():
        maps = detector.body(images, torch.zeros(2, 448, 448, dtype=torch.bool)).maps
        x = network.patch_embed(images)
        for stage, layer in enumerate(network.layers):
            x = layer(x)
            if stage:
                torch.testing.assert_close(maps[stage - 1].permute(0, 2, 3, 1), x)


def test_patch_merging_is_assigned_to_the_right_stage() -> None:
    theirs = {"layers.0.downsample.norm.weight": torch.ones(1), "head.bias": torch.ones(1)}
    assert list(body_from_swin(theirs, merges_first=False)) == ["stages.0.merge.norm.weight"]
    timms = {"layers.1.downsample.norm.weight": torch.ones(1)}
    assert list(body_from_swin(timms, merges_first=True)) == ["stages.0.merge.norm.weight"]


def test_attention_masks_and_relative_positions_are_those_of_timm() -> None:
    block = timm.models.swin_transformer.SwinTransformerBlock(
        8, (14, 21), num_heads=1, window_size=7, shift_size=3
    )
    ours = shift_bias(14, 21, torch.device("cpu"))
    torch.testing.assert_close(ours, block.attn_mask)
    assert torch.equal(relative_position_index(), block.attn.relative_position_index)


def test_attention_of_det_tokens_matches_a_loop() -> None:
    torch.manual_seed(0)
    attention = Attention(12, heads=3).double().eval()
    patches = torch.randn(2, 4, 5, 12, dtype=torch.double)
    det = torch.randn(2, 3, 12, dtype=torch.double)
    position = torch.randn(2, 20, 12, dtype=torch.double)
    bias = torch.where(torch.rand(2, 1, 1, 23) < 0.3, -100.0, 0.0).double()
    bias[..., 20:] = 0
    seen = patches.flatten(1, 2) + position
    _, found = attention(patches, det, 0, (seen, bias))
    for b in range(2):
        q = attention.qkv(det[b])[:, :12]
        _, k, v = attention.qkv(torch.cat([seen[b], det[b]])).split(12, 1)
        for i in range(3):
            values = []
            for head in range(3):
                part = slice(4 * head, 4 * head + 4)
                logits = [
                    float(q[i, part] @ k[j, part]) / 2 + float(bias[b, 0, 0, j]) for j in range(23)
                ]
                weights = [math.exp(x - max(logits)) for x in logits]
                values.append(sum(w * v[j, part] for j, w in enumerate(weights)) / sum(weights))
            expected = attention.proj(torch.cat(values))
            torch.testing.assert_close(found[b, i], expected)


def test_patches_do_not_depend_on_det_tokens_but_det_tokens_on_patches() -> None:
    torch.manual_seed(0)
    detector = ViDT(SMALL, 5, queries=3, width=32, layers=1).double().eval()
    images = torch.randn(1, 3, 64, 64, dtype=torch.double)
    none = torch.zeros(1, 64, 64, dtype=torch.bool)
    before = detector.body(images, none)
    with torch.no_grad():
        detector.body.det_token.normal_()
    after = detector.body(images, none)
    assert all(torch.equal(x, y) for x, y in zip(before.maps, after.maps, strict=True))
    assert not torch.allclose(before.det, after.det)
    other = detector.body(images.flip(3), none)
    assert not torch.allclose(other.det, after.det)


def test_position_embeddings_are_sines_of_the_position_in_the_image() -> None:
    padding = torch.zeros(1, 3, 4, dtype=torch.bool)
    padding[:, 2:], padding[:, :, 3:] = True, True
    found = sine_position(padding, 8)
    for row in range(2):
        for column in range(3):
            expected = []
            for place, length in ((row + 1, 2), (column + 1, 3)):
                for i in range(4):
                    angle = place / length * 2 * math.pi / 10000 ** (2 * (i // 2) / 4)
                    expected.append(math.cos(angle) if i % 2 else math.sin(angle))
            torch.testing.assert_close(
                found[0, row, column], torch.tensor(expected), atol=2e-5, rtol=0
            )
    assert share_inside(padding).tolist() == [[0.75, pytest.approx(2 / 3)]]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 75), (33, 31)])
def test_images_of_any_size_give_boxes_inside_the_image(height: int, width: int) -> None:
    torch.manual_seed(0)
    detector = ViDT(SMALL, 5, queries=3, width=32, layers=2).eval()
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, :, width // 2 :] = True
    outputs = detector(torch.randn(2, 3, height, width), padding)
    assert outputs.logits.shape == (3, 2, 3, 5)
    assert outputs.boxes.shape == (3, 2, 3, 4)
    assert ((outputs.boxes > 0) & (outputs.boxes < 1)).all()
    assert [x.shape[1] for x in outputs.tokens.patches] == [32] * 4
    assert outputs.tokens.neck.shape == (3, 2, 3, 32)


def test_every_predictor_refines_the_previous_box() -> None:
    torch.manual_seed(0)
    detector = ViDT(SMALL, 5, queries=3, width=32, layers=2).eval()
    images, padding = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    boxes = detector(images, padding).boxes
    torch.testing.assert_close(boxes[1], boxes[0], atol=1e-4, rtol=0)  # heads start at zero
    with torch.no_grad():
        detector.box_heads[1].layers[-1].bias[0] = 0.5
    moved = detector(images, padding).boxes
    logit = torch.logit(boxes[0, ..., 0]) + 0.5
    torch.testing.assert_close(moved[1, ..., 0], logit.sigmoid(), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[2, ..., 0], moved[1, ..., 0], atol=1e-4, rtol=0)


def test_no_gradient_flows_through_a_box_to_the_previous_predictor() -> None:
    torch.manual_seed(0)
    detector = ViDT(SMALL, 5, queries=3, width=32, layers=1, dropout=0.0)
    with torch.no_grad():
        for head in detector.box_heads:
            head.layers[-1].weight.normal_(std=0.1)
    outputs = detector(torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool))
    outputs.boxes[1].sum().backward()
    assert not detector.box_heads[0].layers[-1].weight.grad.any()
    assert detector.box_heads[1].layers[-1].weight.grad.any()


def test_reference_boxes_are_scaled_to_the_unpadded_part() -> None:
    """Boxes are relative to the image, positions in the maps to the image with its padding."""
    torch.manual_seed(0)
    detector = ViDT(SMALL, 5, queries=3, width=32, layers=1).eval()
    padding = torch.zeros(1, 64, 64, dtype=torch.bool)
    padding[:, :, 32:] = True
    given: list[torch.Tensor] = []
    attention = detector.neck[0].cross_attn
    attention.register_forward_pre_hook(lambda module, args: given.append(args[1]))
    outputs = detector(torch.randn(1, 3, 64, 64), padding)
    for level, scale in enumerate(outputs.tokens.paddings):
        width = float((~scale[0, 0]).float().mean())
        share = torch.tensor([width, 1, width, 1])
        torch.testing.assert_close(given[0][:, :, level], outputs.boxes[0] * share)
    assert float((~outputs.tokens.paddings[0][0, 0]).float().mean()) == 0.5


@torch.no_grad()
def test_a_neck_layer_matches_its_formula() -> None:
    """Self-attention, deformable attention and an MLP, each added to the tokens and normed."""
    torch.manual_seed(0)
    layer = NeckLayer(32, 16, dropout=0.1).eval()
    for name, parameter in layer.named_parameters():
        if name.startswith("norm"):
            parameter.add_(torch.randn_like(parameter) / 2)
    det, position = torch.randn(2, 3, 32), torch.randn(1, 3, 32)
    maps = [torch.randn(2, 32, side, side) for side in (8, 4, 2, 1)]
    paddings = [torch.zeros(2, side, side, dtype=torch.bool) for side in (8, 4, 2, 1)]
    boxes = torch.rand(2, 3, 4, 4) / 2 + 0.25
    asking = det + position
    x = layer.norm2(det + layer.self_attn(asking, asking, det)[0])
    x = layer.norm1(x + layer.cross_attn(x + position, boxes, maps, paddings))
    hidden = (x @ layer.linear1.weight.T + layer.linear1.bias).clamp_min(0)
    x = layer.norm3(x + hidden @ layer.linear2.weight.T + layer.linear2.bias)
    torch.testing.assert_close(layer(det, position, boxes, maps, paddings), x)
