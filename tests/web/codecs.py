"""The codec in a page of a browser without a network."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit.web import weights
from tests.fixed_point.machines import OLDEST

ROOT = Path(__file__).resolve().parents[2]
HARNESS = """
async (source) => {
    globalThis.codec = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
    globalThis.nets = {};
    globalThis.bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    globalThis.textOf = (bytes) => {
        let text = "";
        for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
        return btoa(text);
    };
    globalThis.labkitWeights = (name, text) => { nets[name] = codec.parseWeights(bytesOf(text).buffer); };
    globalThis.withoutAlpha = (pixels) => pixels.filter((_, i) => i % 4 < 3);
    globalThis.withAlpha = (colors) => {
        const pixels = new Uint8ClampedArray(colors.length / 3 * 4).fill(255);
        colors.forEach((value, i) => { pixels[4 * Math.floor(i / 3) + i % 3] = value; });
        return pixels;
    };
}
"""
DECODE = """
([name, text]) => {
    const fractions = [];
    const start = performance.now();
    const {pixels, maps, ...decoded} = codec.decode(nets[name], bytesOf(text), (fraction) => fractions.push(fraction));
    const milliseconds = performance.now() - start;
    const bits = maps.bits.reduce((sum, value) => sum + value, 0);
    return {...decoded, milliseconds, bits, fractions, pixels: textOf(withoutAlpha(pixels))};
}
"""
ENCODE = """
([name, width, height, text]) => {
    const image = {width, height, pixels: withAlpha(bytesOf(text))};
    const start = performance.now();
    const file = codec.encode(nets[name], image);
    return {milliseconds: performance.now() - start, file: textOf(file)};
}
"""
DAMAGED = """
([name, texts]) => texts.map((text) => {
    const start = performance.now();
    try {
        const {pixels, ...decoded} = codec.decode(nets[name], bytesOf(text));
        return {...decoded, maps: null, pixels: textOf(withoutAlpha(pixels)), milliseconds: performance.now() - start};
    } catch (error) {
        return {kind: error.constructor.name, error: error.message, milliseconds: performance.now() - start};
    }
})
"""


class Page:
    """labkit's codec in a page that must not ask for anything.

    Args:
        page: A blank page of Playwright.

    Attributes:
        requests: URLs that the page asked for.
    """

    def __init__(self, page: Any):
        self.page = page
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.evaluate(HARNESS, weights.SCRIPT.read_text(encoding="utf-8"))

    def load(self, name: str, net: Any) -> None:
        """Load the weights of a network under a name."""
        self.page.evaluate("([name, text]) => labkitWeights(name, text)", [name, _text(weights.pack(net))])

    def decode(self, name: str, file: bytes) -> dict[str, Any]:
        """Decode a file with the weights of this name. The pixels are an array of shape (height, width, 3)."""
        return _with_pixels(self.page.evaluate(DECODE, [name, _text(file)]))

    def encode(self, name: str, image: Tensor) -> tuple[bytes, float]:
        """Encode a uint8 image of shape (3, height, width); return the file and the milliseconds."""
        height, width = image.shape[1:]
        colors = image.permute(1, 2, 0).contiguous().numpy().tobytes()
        coded = self.page.evaluate(ENCODE, [name, width, height, _text(colors)])
        return base64.b64decode(coded["file"]), coded["milliseconds"]

    def decode_damaged(self, name: str, files: list[bytes]) -> list[dict[str, Any]]:
        """Decode files; each gives what `decode` returns, or {"error", "kind", "milliseconds"}."""
        results = self.page.evaluate(DAMAGED, [name, [_text(file) for file in files]])
        return [result if "error" in result else _with_pixels(result) for result in results]


def steps(pixels: np.ndarray[Any, Any], image: Tensor) -> tuple[int, float]:
    """Return the largest difference of two images in 8-bit steps, and the part of the values that differ."""
    difference = np.abs(pixels.astype(int) - image.permute(1, 2, 0).numpy())
    return int(difference.max()), float((difference > 0).mean())


def decoded_elsewhere(folder: Path) -> list[tuple[bool, int, float]]:
    """Decode the `.lkc` files of a folder with an old processor's instructions.

    Returns:
        For each file, in the order of the names, whether the latents are the verified ones, and what `steps` says about
        the image and the `.npy` file of the same name.
    """
    command = [sys.executable, "-W", "ignore", "-m", "tests.web.decode", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **OLDEST}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[tuple[bool, int, float]] = json.loads(done.stdout)
    return results


def photograph(image: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of a uint8 image of shape (3, H, W)."""
    top, left = (image.size(1) - height) // 2, (image.size(2) - width) // 2
    return image[:, top : top + height, left : left + width].contiguous()


def repeated(image: Tensor, height: int, width: int) -> Tensor:
    """Return an image of any size, tiled with a uint8 image of shape (3, H, W)."""
    rows, columns = torch.arange(height) % image.size(1), torch.arange(width) % image.size(2)
    return image[:, rows][:, :, columns].contiguous()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _with_pixels(decoded: dict[str, Any]) -> dict[str, Any]:
    pixels = np.frombuffer(base64.b64decode(decoded["pixels"]), np.uint8)
    return {**decoded, "pixels": pixels.reshape(decoded["height"], decoded["width"], 3)}
