import torch

from tangoflux.flow import euler_sigmas, interpolate, logit_normal_sigma, sampler_sigma, velocity_target
from tangoflux.seeding import seeded_generator


def test_the_path_goes_from_latents_to_noise() -> None:
    latents, noise = torch.randn(2, 3, 4, 5).double()
    assert torch.equal(interpolate(latents, noise, torch.zeros(3)), latents)
    assert torch.equal(interpolate(latents, noise, torch.ones(3)), noise)


def test_the_target_is_the_derivative_of_the_path() -> None:
    latents, noise = torch.randn(2, 3, 4, 5).double()
    sigma = torch.tensor([0.1, 0.5, 0.9]).double()
    slope = (interpolate(latents, noise, sigma + 1e-6) - interpolate(latents, noise, sigma - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, velocity_target(latents, noise), rtol=1e-6, atol=1e-6)


def test_following_the_true_velocity_by_euler_ends_at_the_latents() -> None:
    latents, noise = torch.randn(2, 3, 4, 5).double()
    x, sigmas = noise, euler_sigmas(7).double()
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = x + (following - sigma) * velocity_target(latents, noise)
    torch.testing.assert_close(x, latents)


def test_euler_starts_at_noise_and_ends_at_data() -> None:
    torch.testing.assert_close(euler_sigmas(4), torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]))
    torch.testing.assert_close(euler_sigmas(1), torch.tensor([1.0, 0.0]))


def test_training_sigmas_are_logit_normal() -> None:
    sigma = logit_normal_sigma(20_000, seeded_generator("sigma"))
    logit = torch.logit(sigma.double())
    assert ((sigma > 0) & (sigma < 1)).all()
    assert abs(logit.mean()) < 0.03
    assert abs(logit.std() - 1) < 0.03


def test_sigmas_of_the_sampler_are_its_steps_from_a_bound_up_equally_often() -> None:
    generator = seeded_generator("sigma")
    drawn = torch.cat([sampler_sigma(4, 0.5, generator) for _ in range(3_000)])
    values, counts = drawn.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.5, 0.75, 1.0]))
    torch.testing.assert_close(counts.float(), torch.full((3,), 1_000.0), rtol=0.1, atol=0)


def test_the_first_step_is_always_one_of_them() -> None:
    assert float(sampler_sigma(1, 0.99, seeded_generator("sigma"))) == 1.0
