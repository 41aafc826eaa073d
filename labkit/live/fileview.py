"""A coded file in a notebook: the view from the page "Try the codec", with arrays that Python decodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from PIL import Image
from torch import Tensor

from labkit import web
from labkit.evaluation import bitstream
from labkit.files import codec
from labkit.files.container import Container
from labkit.live.canvas import HERE, png, rgba
from labkit.networks import Codec
from labkit.statistics import Array

NETWORK = "patch_hyperprior"
MOST_PIXELS = 2_000_000  # at this size, the page receives 40 MB
_PAGE = Path(web.__file__).parent
_SECTION, _FLUSH = 8, 8  # bytes of each string's header, and of the coder's final state in it


def _script() -> str:
    """Return the script of the widget, preceded by the elements, styles and functions of the page's view."""
    files = _PAGE / "view.html", _PAGE / "view.js", _PAGE / "view.css", HERE / "fileview.css", HERE / "fileview.js"
    html, view, *styles, script = (file.read_text("utf-8") for file in files)
    html = html.replace("<section", '<div role="group"').replace("</section>", "</div>")  # landmarks are only for pages
    elements = json.dumps(f"<style>{''.join(styles)}</style>{html}")
    return f"const VIEW = {elements};\nfunction createView(root) {{\n{view}\nreturn {{ get, showFile }};\n}}\n{script}"


class FileView(anywidget.AnyWidget):
    """Shows a `.lkc` file: its image next to the original, the bytes of its parts, and maps of μ, σ and bits.

    The pointer or the arrow keys select a patch, whose numbers appear below the maps.

    Args:
        file: Path of a file, or its container. It must have been coded by patch_hyperprior.
        original: Image that was coded, of shape (3, H, W) in [0, 1], or None if it is unknown.
        net: Network that coded the file. The default is the bundled network with the hash in the file.
        channel: Channel that the single-channel maps show first.

    Attributes:
        container: The file.
        ledger: Number of bytes of each part. They sum to the length of the file.
        maps: Arrays of shape (M, rows, columns) with a value for each latent y: the predicted "mu" and "sigma" (with
            its lower bound applied), the "bits" according to the coder's tables, and "symbols", the integers ŷ − μ.

    Raises:
        ValueError: If the file cannot be read or decoded, if another network coded it, if it has more than 2 million
            pixels, or if an argument does not match the file. The message has one line.

    Example:
        >>> import labkit as lk
        >>> photo, net = lk.datasets.photos("test")[0][:, :64, :96], lk.networks.pretrained("patch_hyperprior", 0.0067)
        >>> view = lk.live.FileView(lk.files.codec.compress((255 * photo).round().byte(), net), photo)
        >>> sum(view.ledger.values()) == view.container.file_bytes
        True
    """

    _esm = _script()

    frame = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        file: str | Path | Container,
        original: Tensor | None = None,
        net: Codec | None = None,
        *,
        channel: int = 0,
    ) -> None:
        self.container = container = file if isinstance(file, Container) else Container.read(file)
        size = (3, container.height, container.width)
        if container.network != NETWORK:
            raise ValueError(f"file must be coded by {NETWORK}, got {container.codec}")
        if container.width * container.height > MOST_PIXELS:
            raise ValueError(f"file must have at most {MOST_PIXELS:,} pixels, got {size[2]}×{size[1]}")
        if original is not None and tuple(original.shape) != size:
            raise ValueError(f"original must have the shape of the coded image, {size}, got {tuple(original.shape)}")
        if not 0 <= channel < container.M:
            raise ValueError(f"channel must be 0 to {container.M - 1}, got {channel}")
        self.image, self.maps = _decoded(container, net or codec.bundled_network(container))
        self.ledger, self.channel = _ledger(container), channel
        total = self.maps["bits"].sum(0)
        images = {"image": self.image}
        if original is not None:
            images["original"] = (original.detach().cpu().clamp(0, 1) * 255).round().byte()
        label = f"A file of {container.file_bytes:,} bytes, with an image of {size[2]}×{size[1]} pixels"
        frame: dict[str, Any] = {"label": label, "width": size[2], "height": size[1], "bytes": container.file_bytes}
        frame |= {"channel": channel, "M": container.M, "rows": len(total), "columns": total.shape[1]}
        frame |= {name: rgba(image.permute(1, 2, 0).numpy()).tobytes() for name, image in images.items()}
        frame |= {name: values.tobytes() for name, values in self.maps.items()} | {"total": total.tobytes()}
        frame["ledger"] = [{"part": part, "bytes": count} for part, count in self.ledger.items()]
        if original is not None:
            frame["mse"] = (self.image.float() - images["original"].float()).square().mean().item()
        super().__init__(frame=frame)

    def __repr__(self) -> str:
        return f"FileView({self.container!r})"

    def still(self) -> Image.Image:
        """Draw the image, the ledger and the maps for pages without a browser, on white."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.6, 4.8), dpi=100, layout="constrained")
        (image, bits, ledger), below = figure.subplots(2, 3)
        image.imshow(self.image.permute(1, 2, 0).numpy())
        image.set_title(f"decoded from {self.container.file_bytes:,} bytes", fontsize=10)
        ledger.barh(list(self.ledger), list(self.ledger.values()), color="#1c7ed6")
        ledger.bar_label(ledger.containers[0], fmt="{:,.0f}", padding=3, fontsize=9)
        ledger.set_title("bytes of each part", fontsize=10)
        ledger.invert_yaxis()
        ledger.margins(x=0.25)
        ledger.xaxis.set_visible(False)
        ledger.spines[:].set_visible(False)
        maps = {"bits of all channels": self.maps["bits"].sum(0)}
        for name, title in (("mu", "μ"), ("sigma", "σ"), ("bits", "bits")):
            maps[f"{title} of channel {self.channel}"] = self.maps[name][self.channel]
        for axes, (title, values) in zip((bits, *below), maps.items(), strict=True):
            most = float(np.abs(values).max()) or 1.0
            low, colors = (-most, "RdBu_r") if title.startswith("μ") else (0, "viridis")
            figure.colorbar(axes.imshow(values, colors, vmin=low, vmax=most), shrink=0.8)
            axes.set_title(title, fontsize=10)
        for axes in (image, bits, *below):
            axes.set_axis_off()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the widget, and a still for pages without a kernel."""
        data, metadata = super()._repr_mimebundle_(**options) or ({}, {})
        return {**data, "image/png": png(self.still())}, metadata


def _ledger(container: Container) -> dict[str, int]:
    y, z = (len(string) - _FLUSH for string in container.strings)
    heads, flush = _SECTION * len(container.strings), _FLUSH * len(container.strings)
    header = container.file_bytes - y - z - heads - flush
    return {"header": header, "y": y, "z": z, "section headers": heads, "flush": flush}


@torch.no_grad()
def _decoded(container: Container, net: Codec) -> tuple[Tensor, dict[str, Array]]:
    """Return the decoded image, uint8 of shape (3, H, W), and the maps of μ, σ, bits and symbols."""
    outputs: list[Tensor] = []
    hook = net.h_s.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        decoded = codec.decode(container, net)
    finally:
        hook.remove()
    codec.check_verified(container, decoded)
    gaussian = net.gaussian_conditional
    sigma, mu = outputs[-1].chunk(2, 1)
    symbols = (decoded.latents - mu).round().int()
    bits = bitstream.symbol_bits(gaussian, symbols, gaussian.build_indexes(sigma))
    maps = {"mu": mu, "sigma": gaussian.lower_bound_scale(sigma), "bits": bits.float(), "symbols": symbols}
    return decoded.image, {name: values[0].contiguous().numpy() for name, values in maps.items()}
