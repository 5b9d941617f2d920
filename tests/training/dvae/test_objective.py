"""The loss against closed forms, quadrature and Monte Carlo; its gradients against finite differences."""

from math import log, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gesso.training.dvae import objective
from gesso.training.dvae.objective import EPSILON, TO_BYTES, gumbel, harden, kl_uniform, logit_laplace, relax

DRAWS = 200_000
ERRORS = 5  # standard errors that a Monte Carlo mean may be off: one run in two million by chance


def told(mu: Tensor, ln_b: Tensor) -> Tensor:
    return torch.cat((mu, ln_b), 1)


def test_pixels_are_mapped_into_the_open_interval_and_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    mapped = objective.map_pixels(pixels)
    assert float(mapped[0]) == pytest.approx(0.1)
    assert float(mapped[255]) == pytest.approx(0.9)
    assert torch.allclose(objective.unmap_pixels(mapped), pixels / 255, atol=1e-6)
    assert objective.unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0.0, 1.0]


@given(x=st.floats(0.1, 0.9), mu=st.floats(-3, 3), ln_b=st.floats(-3, 2))
def test_logit_laplace_is_the_papers_density(x: float, mu: float, ln_b: float) -> None:
    b = np.exp(ln_b)
    density = np.exp(-abs(np.log(x / (1 - x)) - mu) / b) / (2 * b * x * (1 - x))
    full = torch.full((1, 3, 1, 1), 1.0, dtype=torch.float64)
    found = logit_laplace(full * x, told(full * mu, full * ln_b))
    assert found.flatten().tolist() == pytest.approx([-np.log(density)] * 3, abs=1e-9)


@pytest.mark.parametrize(("mu", "ln_b"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.5)])
def test_the_density_integrates_to_one(mu: float, ln_b: float) -> None:
    logits = np.linspace(-60, 60, 2_000_001)
    x = torch.from_numpy(1 / (1 + np.exp(-logits)))
    inside = (x > 1e-15) & (x < 1 - 1e-15)
    x = x[inside].expand(1, 3, 1, -1)
    full = torch.ones_like(x)
    density = (-logit_laplace(x, told(full * mu, full * ln_b))).exp()[0, 0, 0]
    assert float(torch.trapezoid(density, x[0, 0, 0])) == pytest.approx(1, abs=1e-3)


def test_its_entropy_by_draws() -> None:
    """E[−ln f] of x drawn from f is ln 2b + 1 + E[ln x(1 − x)]; the last by quadrature over the Laplace."""
    mu, b = 0.4, 0.6
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (DRAWS,), generator=generator) * 2 - 1
    noise = torch.empty(DRAWS, dtype=torch.float64).exponential_(generator=generator) * signs * b
    x = torch.sigmoid(mu + noise).expand(1, 3, 1, -1)
    full = torch.ones_like(x)
    drawn = logit_laplace(x, told(full * mu, full * log(b)))[0, 0, 0]
    at = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    inner = torch.nn.functional.logsigmoid(mu + at) + torch.nn.functional.logsigmoid(-mu - at)
    expected = log(2 * b) + 1 + float(torch.trapezoid(inner * (-at.abs() / b).exp() / (2 * b), at))
    assert float(drawn.mean()) == pytest.approx(expected, abs=ERRORS * float(drawn.std()) / DRAWS**0.5)


def test_a_uniform_density_in_units_of_8_bits() -> None:
    """−ln of 1/(0.9 − 0.1) on (0, 1) is ln 255 for values 0…255."""
    assert log(1 - 2 * EPSILON) + TO_BYTES == pytest.approx(log(255))


@pytest.mark.parametrize("size", [2, 5])
def test_kl_of_the_extremes_and_of_draws(size: int) -> None:
    assert float(kl_uniform(torch.zeros(1, size, 1, 1))) == pytest.approx(0, abs=1e-6)
    certain = torch.full((1, size, 1, 1), -1e4)
    certain[0, 1] = 0
    assert float(kl_uniform(certain)) == pytest.approx(log(size))
    logits = torch.randn(1, size, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q = torch.softmax(logits.flatten(), 0)
    drawn = torch.multinomial(q, DRAWS, replacement=True, generator=torch.Generator().manual_seed(2))
    ratios = q.log()[drawn] + log(size)
    assert float(kl_uniform(logits)) == pytest.approx(
        float(ratios.mean()), abs=ERRORS * float(ratios.std()) / DRAWS**0.5
    )


def test_the_papers_bound_on_kl() -> None:
    assert log(8192) == pytest.approx(9.01, abs=0.001)


@pytest.mark.parametrize("temperature", [1.0, 0.25, 1 / 16])
def test_gradients_by_finite_differences(temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    noise = gumbel(torch.empty(2, 4, 2, 2, dtype=torch.float64).exponential_(generator=generator))
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64, generator=generator) * 0.8 + 0.1
    out = torch.randn(1, 6, 2, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: relax(value, noise, temperature), (logits,))
    assert torch.autograd.gradcheck(kl_uniform, (logits,))
    assert torch.autograd.gradcheck(lambda value: logit_laplace(x, value), (out,))


def draws(logits: Tensor, seed: int = 0) -> Tensor:
    """(DRAWS, K, 1, 1) noisy copies of logits (K,)."""
    shape = (DRAWS, len(logits), 1, 1)
    noise = torch.empty(shape, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(seed))
    return gumbel(noise)


def test_gumbel_noise_draws_the_softmax() -> None:
    """The likeliest of logits + noise has the categorical's frequencies; so have hard codes of relaxed draws."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64)
    q = torch.softmax(logits, 0)
    relaxed = relax(logits.view(1, -1, 1, 1), draws(logits), 0.1)
    found = harden(relaxed).mean((0, 2, 3)).double()
    errors = (q * (1 - q) / DRAWS).sqrt()
    assert ((found - q).abs() <= ERRORS * errors).all()


def test_gumbel_noise_has_eulers_mean_and_the_known_variance() -> None:
    noise = draws(torch.zeros(2, dtype=torch.float64)).flatten()
    assert float(noise.mean()) == pytest.approx(0.5772157, abs=ERRORS * float(noise.std()) / len(noise) ** 0.5)
    assert float(noise.var()) == pytest.approx(pi**2 / 6, rel=0.01)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_relaxed_gradient_is_unbiased(temperature: float) -> None:
    """Of two codes the difference of noises is logistic: E[y²] and its derivative by quadrature, against draws."""
    logits = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    y = relax(logits.view(1, -1, 1, 1).expand(DRAWS, -1, 1, 1), draws(logits), temperature)[:, 0, 0, 0]
    each = torch.func.vmap(torch.func.grad(first_squared), (None, 0, None))(
        logits.detach(), draws(logits)[:, :, 0, 0], temperature
    )[:, 0]
    at = torch.linspace(-40, 40, 800_001, dtype=torch.float64)
    density = torch.sigmoid(at) * torch.sigmoid(-at)
    inner = torch.sigmoid((float(logits[0] - logits[1]) + at) / temperature)
    expected = float(torch.trapezoid(2 * inner * inner * (1 - inner) / temperature * density, at))
    assert float(each.mean()) == pytest.approx(expected, abs=ERRORS * float(each.std()) / DRAWS**0.5)
    (through,) = torch.autograd.grad((y**2).mean(), logits)
    assert float(through[0]) == pytest.approx(float(each.mean()), rel=1e-9)


def first_squared(logits: Tensor, noise: Tensor, temperature: float) -> Tensor:
    return relax(logits.view(1, -1, 1, 1), noise.view(1, -1, 1, 1), temperature)[0, 0, 0, 0] ** 2


def test_a_cold_relaxation_is_hard() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1)
    assert relax(logits, torch.zeros_like(logits), 1e-3).flatten().tolist() == [0.0, 1.0, 0.0]
    assert harden(logits).flatten().tolist() == [0.0, 1.0, 0.0]
