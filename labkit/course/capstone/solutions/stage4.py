# Stage 4: the first codec and its training


class Factorized(nn.Module):
    """Transforms and a prior."""

    def __init__(self, lmbda, M=192, N=256):
        super().__init__()
        self.lmbda, self.M, self.N = lmbda, M, N
        self.g_a, self.g_s = transforms(M, N, lmbda)
        self.prior = Prior(M)

    @torch.no_grad()
    def start(self, x):
        """Fit the scales of the network to a first batch."""
        y = self.g_a(x)
        deviation = y.std((0, 2, 3)).clamp_min(0.1)
        for layer in (*self.g_a, *self.g_s):
            if isinstance(layer, Residual):
                layer.inner.weight /= deviation[:, None, None]
        self.start_entropy(y, deviation)

    def start_entropy(self, y, deviation):
        """Fit the entropy model to latents with these standard deviations per channel."""
        fit_prior(self.prior, y)

    def forward(self, x, generator=None):
        """Return the reconstruction and a list of likelihoods."""
        y = self.g_a(x)
        if self.training:
            scored, read = noise(y, None, generator), straight_through(y, None, generator)
        else:
            scored = read = torch.round(y)
        return self.g_s(read), [self.prior.likelihood(scored)]


def fit_prior(prior, y):
    """Start the components at the mean of each channel, with three scales around its standard deviation."""
    mean, deviation = y.mean((0, 2, 3)), y.std((0, 2, 3)).clamp_min(0.1)
    prior.means.copy_(mean[:, None].expand(-1, 3))
    prior.log_scales.copy_((deviation[:, None] * torch.tensor([0.1, 0.3, 0.8])).clamp_min(0.05).log())


def draw_crops(photos, rng):
    """Return 8 random crops of 128×128 pixels, half of them with permuted colors."""
    crops = []
    for i in range(8):
        photo = photos[rng.integers(len(photos))]
        top, left = (rng.integers(side - 127) for side in photo.shape[:2])
        crop = photo[top : top + 128, left : left + 128]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        crops.append(crop[..., rng.permutation(3)] if i % 2 else crop)
    return torch.tensor(np.stack(crops)).permute(0, 3, 1, 2) / 255


def train(codec, photos, steps, seed):
    """Train a codec in place, and return the losses."""
    rng, generator, losses = np.random.default_rng(seed), torch.Generator().manual_seed(seed), []
    if not getattr(codec, "started", False):
        codec.start(draw_crops(photos, rng))
        codec.started = True
    groups = {"prior": 4e-3, "g_a.1": 8e-4, "g_s.2": 4e-4, "": 2e-3}  # learning rate, by the beginning of the name
    parameters = {prefix: [] for prefix in groups}
    for name, parameter in codec.named_parameters():
        parameters[next(prefix for prefix in groups if name.startswith(prefix))].append(parameter)
    optimizer = torch.optim.Adam([{"params": parameters[prefix], "lr": lr} for prefix, lr in groups.items()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    codec.train()
    for _ in range(steps):
        x = draw_crops(photos, rng)
        x_hat, likelihoods = codec(x, generator)
        loss = rate_distortion(x_hat, x, likelihoods, codec.lmbda)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    codec.eval()
    return losses
