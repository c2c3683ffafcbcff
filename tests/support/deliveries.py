"""Studies to deliver: real images under new UIDs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid


@dataclass(frozen=True)
class Study:
    """A delivered study and the UIDs of one of its instances."""

    clinic: str
    study_uid: str
    series_uid: str
    sop_uid: str


def copy_with_new_uids(source: Path, target: Path, **attributes: str) -> Study:
    """Write the study in or below `source` to `target` as a new study of the same images, with these attributes."""
    target.mkdir(parents=True)
    study_uid, series_uids, first = generate_uid(), {}, None
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        dataset.StudyInstanceUID = study_uid
        dataset.SeriesInstanceUID = series_uids.setdefault(dataset.SeriesInstanceUID, generate_uid())
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(target / f"IM{number:04d}")
        first = first or Study("", study_uid, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
    assert first is not None, f"no DICOM file in {source}"
    return first
