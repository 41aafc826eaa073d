# Stage 3: the prior and the loss


class Prior(nn.Module):
    """A mixture of three logistic distributions for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(channels, 3))
        self.means = nn.Parameter(torch.zeros(channels, 3))
        self.log_scales = nn.Parameter(torch.tensor([-2.0, -0.5, 1.0]).repeat(channels, 1))

    def _components(self):
        """Return weights, means and scales, each of shape (1, channels, 1, 1, 3)."""
        weights = self.logits.softmax(-1)
        return (each[None, :, None, None] for each in (weights, self.means, self.log_scales.exp()))

    def cdf(self, y):
        """Return P(Y ≤ y) for y of shape (batch, channels, height, width)."""
        weights, means, scales = self._components()
        return (weights * torch.sigmoid((y[..., None] - means) / scales)).sum(-1)

    def likelihood(self, y):
        """Return the mass of (y − ½, y + ½), at least 10⁻⁹."""
        weights, means, scales = self._components()
        distance = (y[..., None] - means).abs()  # the mass is even in it, and both terms are small in the lower tail
        mass = torch.sigmoid((0.5 - distance) / scales) - torch.sigmoid((-0.5 - distance) / scales)
        return (weights * mass).sum(-1).clamp_min(1e-9)


def rate_distortion(x_hat, x, likelihoods, lmbda):
    """Return bits per pixel plus λ · 255² · MSE."""
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    bits = sum(-torch.log2(likelihood).sum() for likelihood in likelihoods)
    return bits / pixels + lmbda * 255**2 * (x_hat - x).square().mean()
