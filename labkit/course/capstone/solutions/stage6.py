# Stage 6: the hyperprior

BOUND = 0.11


def gaussian_likelihood(y, mu, sigma):
    """Return the mass of (y − ½, y + ½) under a normal distribution, at least 10⁻⁹."""
    distance = (y - mu).abs()
    mass = torch.special.ndtr((0.5 - distance) / sigma) - torch.special.ndtr((-0.5 - distance) / sigma)
    return mass.clamp_min(1e-9)


class _LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bound):
        """Return the larger of x and the bound."""
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx, gradient):
        """Pass the gradient above the bound, and below it only if a descent step raises x."""
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def lower_bound(x, bound):
    """Return the larger of x and the bound; below it, only a gradient that raises x passes."""
    return _LowerBound.apply(x, bound)


def zero_center(y, mu, surrogate, stop):
    """Return surrogate(y − μ) + μ; with `stop`, μ is a constant."""
    mu = mu.detach() if stop else mu
    return surrogate(y - mu) + mu


class Hyperprior(Factorized):
    """Transforms and a hyperprior that predicts μ and σ of each latent."""

    def __init__(self, lmbda, M=192, N=256, Z=24):
        super().__init__(lmbda, M, N)
        self.prior = Prior(Z)
        self.h_a = nn.Sequential(nn.Conv2d(M, N, 1), nn.ReLU(), nn.Conv2d(N, Z, 2, 2))
        self.h_s = nn.Sequential(nn.ConvTranspose2d(Z, N, 2, 2), nn.ReLU(), nn.Conv2d(N, 2 * M, 1))

    def start_entropy(self, y, deviation):
        """Start h_s with the means and standard deviations of the channels."""
        self.h_a[0].weight /= deviation[:, None, None]
        self.h_s[2].weight *= 0.1
        self.h_s[2].weight[: self.M] *= deviation[:, None, None, None]
        self.h_s[2].bias.copy_(torch.cat([y.mean((0, 2, 3)), deviation.log()]))
        fit_prior(self.prior, self.h_a(y))

    def distribution(self, z):
        """Return μ and σ, each with the shape of y."""
        mu, log_sigma = self.h_s(z).chunk(2, 1)
        return mu, lower_bound(log_sigma.exp(), BOUND)

    def forward(self, x, generator=None):
        """Return the reconstruction and the likelihoods of y and z."""
        y = self.g_a(x)
        z = self.h_a(y)
        if not self.training:
            z = torch.round(z)
            mu, sigma = self.distribution(z)
            y = zero_center(y, mu, torch.round, stop=False)
            return self.g_s(y), [gaussian_likelihood(y, mu, sigma), self.prior.likelihood(z)]
        mu, sigma = self.distribution(straight_through(z, None, generator))
        scored_y, scored_z = noise(y, None, generator), noise(z, None, generator)
        read = zero_center(y, mu, lambda r: straight_through(r, None, generator), stop=True)
        return self.g_s(read), [gaussian_likelihood(scored_y, mu, sigma), self.prior.likelihood(scored_z)]
