from __future__ import annotations

import torch
from torch import Tensor, nn

from slm.model.norm import RMSNorm, _TrainedNorm, compute_dtype


def norm(width: int = 24) -> RMSNorm:
    made = RMSNorm(width, 1e-5)
    with torch.no_grad():
        made.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return made


def test_norm_equals_that_of_torch() -> None:
    ours, reference = norm(), nn.RMSNorm(24, 1e-5)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 24)
    assert torch.equal(ours(x), reference(x))


def test_norm_of_training_has_the_values_and_gradients_of_torchs() -> None:
    ours = norm()
    x = (torch.randn(3, 5, 24) * torch.tensor([3.0, 1e-2, 1e-3])[:, None, None]).requires_grad_()  # epsilon counts
    upstream = torch.randn(3, 5, 24)

    def results(out: Tensor) -> tuple[Tensor, ...]:
        return out, *torch.autograd.grad(out, (x, ours.weight), upstream)

    fast = results(_TrainedNorm.apply(x, ours.weight, 1e-5, torch.float32))
    for mine, reference in zip(fast, results(ours(x)), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_gradient_of_training_is_the_numerical_one() -> None:
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: _TrainedNorm.apply(a, b, 1e-3, torch.float64), (x, weight))


def test_under_autocast_the_norm_hands_on_what_the_matrix_products_take() -> None:
    ours, x = norm(), torch.randn(2, 24, requires_grad=True)
    plain = ours(x)
    assert plain.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = ours(x)
        with torch.no_grad():
            scored = ours(x)
    assert trained.dtype == scored.dtype == torch.bfloat16
    assert trained.grad_fn is not None
    assert "_TrainedNorm" in type(trained.grad_fn).__name__
    torch.testing.assert_close(trained, plain.to(torch.bfloat16))
    assert torch.equal(trained, scored)


def test_compute_type_is_autocasts_where_it_is_on() -> None:
    x = torch.zeros(1)
    assert compute_dtype(x) == torch.float32
    assert compute_dtype(x.half()) == torch.float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compute_dtype(x) == torch.bfloat16
