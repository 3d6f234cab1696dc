"""examples/ runs, lowers the distillation loss, and adds only the distillation to a trainer."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LOOPS = ("plain_pytorch", "lightning_module", "accelerate_loop")


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    torch.manual_seed(0)


def example(name: str) -> Any:
    return import_module(name)


def falls(losses: list[float]) -> bool:
    part = len(losses) // 3
    return sum(losses[-part:]) < 0.95 * sum(losses[:part])


@pytest.mark.parametrize("name", LOOPS)
def test_the_distillation_takes_ten_lines_at_most(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    ours = re.findall(r"^.*(?:vkd|reader|[Dd]istill|whitening).*$", code, re.MULTILINE)
    trainer = code[: code.index("__main__")]
    assert len([line for line in ours if line in trainer and "losses" not in line]) <= 10


def test_the_lines_of_the_page_run() -> None:
    page = (EXAMPLES.parent / "docs" / "examples.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    student = nn.Sequential()
    student.features = nn.Conv2d(3, 64, 3)
    given: dict[str, Any] = {
        "network": nn.Conv2d(3, 96, 3), "student": student, "images": torch.randn(4, 3, 8, 8),
        "optimizer": torch.optim.Adam(student.parameters()), "task_loss": torch.mean,
    }  # fmt: skip
    exec(lines, given)
    given["loss"].backward()
    given["optimizer"].step()
    assert student.features.weight.grad.abs().sum() > 0
    assert not given["vkd"].loss.project.tangent.any(), "retracted"


def test_the_plain_loop_runs() -> None:
    assert falls(example("plain_pytorch").main(epochs=2))


def test_the_lightning_module_runs() -> None:
    pytest.importorskip("lightning", reason="needs lightning")
    student = example("lightning_module").main(epochs=2).cpu()
    images, labels = example("parts").digits().tensors
    assert (student.network(images).argmax(1) == labels).float().mean() > 0.5
    p = student.vkd.loss.project.matrix()
    torch.testing.assert_close(p.T @ p, torch.eye(16), rtol=0, atol=1e-5)
    assert student.vkd.loss.normalize.training
    assert not student.vkd.teacher.network.training


def test_the_loop_of_accelerate_runs() -> None:
    pytest.importorskip("accelerate", reason="needs accelerate")
    _, losses = example("accelerate_loop").main(epochs=2, cpu=True, mixed_precision="bf16")
    assert falls(losses)


def gradients(network: nn.Module) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    return found


def test_the_loss_of_stylegan2_gains_the_gradient_of_the_distillation_alone() -> None:
    stand_ins, parts = example("stand_ins"), example("parts")
    patched = type("Loss", (example("stylegan2_ada").Distilled, stand_ins.StyleGAN2Loss), {})
    g, d = parts.generator(), stand_ins.StyleGAN2Discriminator()
    plain, loss = stand_ins.StyleGAN2Loss("cpu", g, d), patched("cpu", g, d)
    loss.distil_from(parts.small_teacher(20), width=32, weight=3.0)
    real, c = next(stand_ins.batches(1)), torch.zeros(64, 0)
    call = {"real_img": real, "real_c": c, "gen_z": torch.randn(64, 16), "gen_c": c, "sync": True}
    state = {name: value.clone() for name, value in loss.vkd.state_dict().items()}
    plain.accumulate_gradients(phase="Dmain", gain=2, **call)
    adversarial = gradients(d)
    loss.accumulate_gradients(phase="Dmain", gain=2, **call)
    found = gradients(d)
    loss.vkd.load_state_dict(state)
    seen = real.flip(3)
    (6 * loss.vkd(d.b16(seen), seen)).backward()
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in d.parameters()]
    for total, one, other in zip(found, adversarial, own, strict=True):
        torch.testing.assert_close(total, one + other)
    d.zero_grad()
    g.zero_grad()
    loss.accumulate_gradients(phase="Gmain", gain=2, **call)
    generator = gradients(g)
    plain.accumulate_gradients(phase="Gmain", gain=2, **call)
    assert all(map(torch.equal, generator, gradients(g)))


def test_the_loss_of_stylegan2_lowers_the_distillation() -> None:
    before, after = example("stylegan2_ada").main(steps=40)
    assert after < 0.9 * before


def test_the_auxiliary_loss_of_lightweight_gan_gains_the_distillation_alone() -> None:
    stand_ins, parts = example("stand_ins"), example("parts")
    plain = stand_ins.LightweightDiscriminator()
    patched = example("lightweight_gan").Distilled(plain, parts.small_teacher(20), width=32)
    images = torch.rand(64, 1, 16, 16)
    for auxiliary in (False, True):
        before, after = (d(images, calc_aux_loss=auxiliary) for d in (plain, patched))
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1], after[1])
    again = patched.vkd.eval()(plain.layers(images).mean((2, 3)), 2 * images - 1)
    torch.testing.assert_close(patched(images, calc_aux_loss=True)[2], before[2] + again)


def test_lightweight_gan_runs() -> None:
    assert falls(example("lightweight_gan").main(steps=40))
