"""What the viewer's canvas shows, against what the file holds."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

Grey = NDArray[np.float64]

CANVAS = "[data-cy=viewport-pane] canvas.cornerstone-canvas"


def shown(page: Page) -> Grey:
    """The grey values (0 to 255) of the first viewport."""
    url: str = page.locator(CANVAS).first.evaluate("canvas => canvas.toDataURL('image/png')")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
    return np.asarray(image, dtype=np.float64)


def expected(file: Path, canvas: Grey) -> Grey:
    """The file's image as a viewer must show it: VOI window applied (DICOM PS3.3 C.11.2.1.2.1), fitted, centred."""
    dataset = pydicom.dcmread(file)
    values = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    center, width = (float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    grey = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    height, across = canvas.shape
    rows, columns = grey.shape
    scale = min(height / rows, across / columns)
    size = (round(columns * scale), round(rows * scale))
    fitted = np.asarray(
        Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR), dtype=np.float64
    )
    whole = np.zeros_like(canvas)
    top, left = (height - size[1]) // 2, (across - size[0]) // 2
    whole[top : top + size[1], left : left + size[0]] = fitted[: height - top, : across - left]
    return whole


def histogram_overlap(one: Grey, other: Grey) -> float:
    """How much two images' histograms of 16 grey levels have in common: 1 for the same, 0 for nothing. Black, which is
    mostly the surroundings of the image, is left out."""
    shares = []
    for image in (one, other):
        counts = np.histogram(image, bins=16, range=(0, 256))[0][1:]
        shares.append(counts / max(counts.sum(), 1))
    return float(np.minimum(*shares).sum())


def correlation(one: Grey, other: Grey) -> float:
    """Pearson's correlation of two images, pixel by pixel; 0 if one of them is of one colour."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])
