"""Images as large as those of real machines."""

from __future__ import annotations

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from real_files import real_files

PANORAMIC = "1.2.840.10008.5.1.4.1.1.1.1"


def panoramic(rows: int = 1000, columns: int = 1400, frames: int = 1, **attributes: str) -> Dataset:
    """A panoramic X-ray of 2.8 MB, or one of more rows, columns and frames."""
    dataset = pydicom.dcmread(real_files()["pydicom/test_files/CT_small.dcm"])
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(PANORAMIC)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.PatientName, dataset.PatientID = "PX", "Panoramic^Test", "PANORAMIC"
    dataset.Rows, dataset.Columns, dataset.PixelRepresentation = rows, columns, 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = np.tile(np.arange(rows * columns, dtype="<u2") % 4096, frames).tobytes()
    return dataset
