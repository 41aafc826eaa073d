import struct
import zlib

# Stage 7: files

LEVELS, LOG_MIN, LOG_STEP = 64, math.log(0.11), math.log(64 / 0.11) / 63
REACH_Z = 31


def reaches():
    """Return the largest |symbol| of each of the 64 tables of y."""
    return np.array([15 + math.ceil(6 * math.exp(LOG_MIN + i * LOG_STEP) - 1e-9) for i in range(LEVELS)])


@torch.no_grad()
def tables(codec):
    """Return the tables of z, one per channel, and of y, one per level of σ."""
    edges = torch.arange(-REACH_Z, REACH_Z + 2, dtype=torch.float64) - 0.5
    cdf = codec.prior.cdf(edges.expand(codec.prior.means.shape[0], -1)[None, :, :, None])[0, :, :, 0]
    of_z = [table(masses) for masses in cdf.diff(dim=1).numpy()]
    of_y = []
    for level, reach in enumerate(reaches().tolist()):
        edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
        below = torch.special.ndtr(edges / math.exp(LOG_MIN + level * LOG_STEP))
        of_y.append(table(below.diff().numpy()))
    return of_z, of_y


@torch.no_grad()
def fixed_point(codec, z):
    """Evaluate h_s with integers.

    Returns μ in units of 1/256 and the level of σ, both of shape (M, 2 h, 2 w), for z of shape (24, h, w).
    """
    first, _, last = codec.h_s

    def integers(parameter, bits):
        return torch.round(parameter.double() * 2**bits).long().numpy()

    channels, h, w = z.shape
    weight = integers(first.weight, 12)  # (24, 256, 2, 2)
    hidden = weight.reshape(channels, -1).T @ z.reshape(channels, -1).astype(np.int64)  # units of 2⁻¹²
    hidden = hidden.reshape(-1, 2, 2, h, w).transpose(0, 3, 1, 4, 2).reshape(-1, 4 * h * w)
    hidden = np.maximum(hidden + integers(first.bias, 12)[:, None], 0) >> 4  # units of 2⁻⁸
    output = integers(last.weight, 12)[:, :, 0, 0] @ hidden + integers(last.bias, 20)[:, None]  # units of 2⁻²⁰
    mu, log_sigma = np.split(output.reshape(-1, 2 * h, 2 * w), 2)
    unit = round(LOG_STEP * 2**20)
    level = (log_sigma - round(LOG_MIN * 2**20) + unit // 2) // unit
    return (mu + 2**11) >> 12, level.clip(0, LEVELS - 1)


@torch.no_grad()
def compress(codec, image):
    """Return the file of an image, uint8 of shape (height, width, 3)."""
    x = torch.tensor(image).permute(2, 0, 1)[None] / 255
    y = codec.g_a(x)
    z = torch.round(codec.h_a(y))[0].numpy().clip(-REACH_Z, REACH_Z).astype(int)
    mu, level = fixed_point(codec, z)
    reach = reaches()[level]
    k = np.rint(y[0].double().numpy() - mu / 256).clip(-reach, reach).astype(int)
    of_z, of_y = tables(codec)
    z_stream = encode((z + REACH_Z).ravel().tolist(), channel_indexes(z.shape), of_z)
    y_stream = encode((k + reach).ravel().tolist(), level.ravel().tolist(), of_y)
    height, width = image.shape[:2]
    body = struct.pack(">2sHHI", b"MC", height, width, len(z_stream)) + z_stream + y_stream
    return body + struct.pack(">I", zlib.crc32(body))


def channel_indexes(shape):
    """Return the channel of each latent of this shape, in the order of the stream."""
    return np.repeat(np.arange(shape[0]), shape[1] * shape[2]).tolist()


def latents(codec, data):
    """Return z and the integers k of a file. Raises ValueError if the file is damaged."""
    if len(data) < 14 or struct.unpack(">I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise ValueError("the file is damaged: its checksum is wrong")
    magic, height, width, length = struct.unpack(">2sHHI", data[:10])
    if magic != b"MC" or height % 32 or width % 32 or 10 + length > len(data) - 4:
        raise ValueError("this is not a file of this codec")
    of_z, of_y = tables(codec)
    shape = (codec.prior.means.shape[0], height // 32, width // 32)
    z = np.array(decode(data[10 : 10 + length], channel_indexes(shape), of_z)).reshape(shape) - REACH_Z
    _, level = fixed_point(codec, z)
    k = np.array(decode(data[10 + length : -4], level.ravel().tolist(), of_y)).reshape(level.shape)
    return z, k - reaches()[level]


@torch.no_grad()
def decompress(codec, data):
    """Return the image of a file, uint8 of shape (height, width, 3)."""
    z, k = latents(codec, data)
    mu, _ = fixed_point(codec, z)
    x_hat = codec.g_s(torch.tensor(k + mu / 256, dtype=torch.float32)[None])[0]
    return (x_hat.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
