import pytest
import torch

from gan_vkd.distill.precision import Precise, at_least_float32

INTEGERS = [torch.bool, torch.uint8, torch.int16, torch.int64]
KEPT = [*INTEGERS, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", KEPT)
def test_integers_and_wide_floats_are_left_alone(dtype: torch.dtype) -> None:
    x = torch.ones(2).to(dtype)
    assert at_least_float32(x) is x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_narrow_floats_become_float32(dtype: torch.dtype) -> None:
    assert at_least_float32(torch.ones(2).to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", KEPT)
def test_a_precise_module_keeps_its_types_in_a_half_model(dtype: torch.dtype) -> None:
    module = Precise()
    module.register_buffer("x", torch.ones(2).to(dtype))
    assert module.half().x.dtype == dtype
