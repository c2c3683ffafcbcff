"""Compares the viewer's canvas with the content of the file."""

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


def shown(page: Page, viewport: int = 0) -> Grey:
    """The grey values (0 to 255) of a viewport: rows x columns."""
    return np.asarray(_picture(page, viewport).convert("L"), dtype=np.float64)


def shown_in_colour(page: Page) -> Grey:
    """The same in red, green and blue: rows x columns x 3."""
    return np.asarray(_picture(page).convert("RGB"), dtype=np.float64)


def _picture(page: Page, viewport: int = 0) -> Image.Image:
    url: str = page.locator(CANVAS).nth(viewport).evaluate("canvas => canvas.toDataURL('image/png')")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def expected(file: Path, canvas: Grey) -> Grey:
    """The file's image as a viewer must show it: VOI window applied (DICOM PS3.3 C.11.2.1.2.1), fitted, centred."""
    dataset = pydicom.dcmread(file)
    values = dataset.pixel_array * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    center, width = (float(np.atleast_1d(dataset[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
    return fitted(windowed(values, center, width), (canvas.shape[0], canvas.shape[1]))


def windowed(values: NDArray[np.generic], center: float, width: float) -> NDArray[np.uint8]:
    """Values as grey levels (0 to 255): VOI LUT function LINEAR."""
    grey: Grey = np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    return grey.astype(np.uint8)


def fitted(picture: NDArray[np.uint8], canvas: tuple[int, int]) -> Grey:
    """A picture (rows x columns, or x 3) as large as a canvas of so many rows and columns lets it be, in its middle."""
    scale = min(canvas[0] / picture.shape[0], canvas[1] / picture.shape[1])
    rows, columns = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR)
    whole = np.zeros((*canvas, *picture.shape[2:]))
    top, left = (canvas[0] - rows) // 2, (canvas[1] - columns) // 2
    whole[top : top + rows, left : left + columns] = np.asarray(resized, dtype=np.float64)
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
