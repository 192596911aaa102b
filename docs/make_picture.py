"""Make docs/answer.png: the upper part of the page that `videoreasoner demo` writes, as Chromium shows it.

python docs/make_picture.py
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from videoreasoner.cli.demo import demo

PICTURE = Path(__file__).parent / "answer.png"
SEED = 13
# Down to the first row of frames, and a little into the second.
SIZE = (1120, 1340)
# Shapes on a plain ground need no more colours.
COLORS = 128


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        demo(Path(folder), seed=SEED, model="tiny")
        page = Path(folder) / f"seed-{SEED}" / "answer-detail.html"
        shot = Path(folder) / "shot.png"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        command = ["chromium", *flags, size, f"--user-data-dir={folder}/profile", f"--screenshot={shot}"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True)
        image = Image.open(shot).convert("RGB")
        # Ends where the paper is blank from side to side, so that nothing is cut through.
        blank = np.flatnonzero((np.asarray(image) == 255).all(axis=(1, 2)))
        image.crop((0, 0, image.width, int(blank[-1]))).quantize(COLORS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
