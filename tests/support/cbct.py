"""A cone beam CT as dental scanners write it: one file with hundreds of slices, of which no two are alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from strange_files import image

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SPACING = 0.3  # mm, in all three directions
WINDOW = (1000, 2400)  # center, width


def volume(frames: int = 400, size: int = 512) -> NDArray[np.int16]:
    """A wire that winds once around a cylinder of water: frames x rows x columns, in Hounsfield units."""
    row, column = np.mgrid[:size, :size] / size - 0.5
    water = np.where(np.hypot(row, column) < 0.45, 0, -1000).astype(np.int16)
    made = np.repeat(water[np.newaxis], frames, axis=0)
    for number, frame in enumerate(made):
        turn = 2 * np.pi * number / frames
        frame[np.hypot(row - 0.3 * np.sin(turn), column - 0.3 * np.cos(turn)) < 0.1] = 2000
    return made


def cbct(voxels: NDArray[np.int16], **attributes: object) -> FileDataset:
    """An Enhanced CT (PS3.3 A.38) of these slices, whose functional groups say where each of them lies."""
    frames, rows, columns = voxels.shape
    dataset = image(Modality="CT", SOPClassUID=ENHANCED_CT, Rows=rows, Columns=columns, NumberOfFrames=frames)
    dataset.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.FrameOfReferenceUID = dataset.StudyInstanceUID
    dataset.SharedFunctionalGroupsSequence = [
        _group(
            PixelMeasuresSequence=_group(PixelSpacing=[SPACING, SPACING], SliceThickness=SPACING),
            PlaneOrientationSequence=_group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            PixelValueTransformationSequence=_group(RescaleIntercept=0, RescaleSlope=1, RescaleType="HU"),
            FrameVOILUTSequence=_group(WindowCenter=WINDOW[0], WindowWidth=WINDOW[1]),
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _group(
            FrameContentSequence=_group(DimensionIndexValues=[number + 1]),
            PlanePositionSequence=_group(ImagePositionPatient=[0, 0, round(number * SPACING, 3)]),
        )
        for number in range(frames)
    ]
    dataset.PixelData = voxels.astype("<i2").tobytes()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _group(**elements: object) -> Dataset:
    """An item. A value that is an item itself is the only one of its sequence."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, [value] if isinstance(value, Dataset) else value)
    return item
