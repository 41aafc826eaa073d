import torch

# Stage 1: surrogates of rounding


def noise(y, tau, generator):
    """Return y plus uniform noise."""
    return y + torch.rand(y.shape, generator=generator) - 0.5


def straight_through(y, tau, generator):
    """Return y rounded, with derivative 1."""
    return torch.round(y).detach() + (y - y.detach())


def relaxed(y, tau, generator):
    """Return the relaxed form of stochastic uniform annealing, with its own derivative."""
    low = torch.floor(y)
    u = torch.rand(y.shape, generator=generator) - 0.5
    return low + ((y - low - 0.5) / tau + u + 0.5).clamp(0, 1)
