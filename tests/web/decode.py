"""Decodes the `.lkc` files of a folder, and compares them with the `.npy` images of the same names; prints JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from labkit.files import codec
from labkit.files.container import Container
from tests.web.codecs import steps

results = []
for path in sorted(Path(sys.argv[1]).glob("*.lkc")):
    container = Container.read(path)
    decoded = codec.decode(container, codec.bundled_network(container))
    results.append((decoded.same_latents, *steps(np.load(path.with_suffix(".npy")), decoded.image)))
print(json.dumps(results))
