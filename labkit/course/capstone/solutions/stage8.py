# Stage 8: a curve and an experiment


@torch.no_grad()
def rescale(codec, lmbda):
    """Return a copy of a hyperprior codec for another λ, whose latents are √(λ′/λ) times as large."""
    other = Hyperprior(lmbda, codec.M, codec.N, codec.prior.means.shape[0])
    other.load_state_dict(codec.state_dict())
    other.started = True
    scale = math.sqrt(lmbda / codec.lmbda)
    for layer in (*other.g_a, *other.g_s):
        if isinstance(layer, Residual):
            layer.inner.weight /= scale
            layer.outer.weight *= scale
            layer.outer.bias *= scale
    other.g_a[1].weight *= scale
    other.g_a[1].bias *= scale
    other.g_s[2].weight /= scale
    other.h_a[0].weight /= scale
    other.h_s[2].weight[: codec.M] *= scale
    other.h_s[2].bias[: codec.M] *= scale
    other.h_s[2].bias[codec.M :] += math.log(scale)
    return other.eval()


def toy_loss(surrogate, seed):
    """Train a scalar codec on a Laplacian source, and return its loss with rounding: bits plus 4 · squared error."""
    generator = torch.Generator().manual_seed(seed)

    def samples(n):
        magnitude = -torch.log1p(-torch.rand(n, 1, 1, 1, generator=generator))
        return magnitude * torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.5, -1, 1)

    gain, back, prior = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.tensor(0.6)), Prior(1)
    optimizer = torch.optim.Adam([gain, back, *prior.parameters()], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    for _ in range(500):
        x = samples(512)
        y = gain * x
        scored, read = noise(y, 0.2, generator), surrogate(y, 0.2, generator)
        loss = -torch.log2(prior.likelihood(scored)).mean() + 4 * (back * read - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x = samples(100_000)
        y = torch.round(gain * x)
        return (-torch.log2(prior.likelihood(y)).mean() + 4 * (back * y - x).square().mean()).item()


def paired(a, b):
    """Return the mean of a − b over five seeds and its 95% interval."""
    differences = np.array(a) - np.array(b)
    half = 2.776 * differences.std(ddof=1) / math.sqrt(5)
    return differences.mean(), differences.mean() - half, differences.mean() + half


def ablation():
    """Return the losses of five seeds with noise and with straight-through in the reconstruction."""
    return tuple([toy_loss(surrogate, seed) for seed in range(5)] for surrogate in (noise, straight_through))
