"""DICOM files of the kinds that no package ships: encapsulated PDF, video, and a segmentation of a given image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pack_bits
from pydicom.uid import (
    MPEG4HP41,
    UID,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    SegmentationStorage,
    VideoEndoscopicImageStorage,
    generate_uid,
)

# One page with one word, as small as ISO 32000 lets it be.
PDF = b"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>> endobj
4 0 obj <</Length 37>> stream
BT /F 40 Tf 40 90 Td (Findings) Tj ET
endstream endobj
5 0 obj <</Type/Font/Subtype/Type1/BaseFont/Helvetica>> endobj
trailer <</Root 1 0 R>>
"""


def pdf(path: Path, **attributes: str) -> Dataset:
    """Write a PDF of one page in an image of its own; its dataset. PS3.3 A.45.1."""
    dataset = _new(EncapsulatedPDFStorage, ExplicitVRLittleEndian, Modality="DOC", **attributes)
    dataset.BurnedInAnnotation = "YES"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.DocumentTitle = "Findings"
    dataset.EncapsulatedDocument = PDF + b"\0" * (len(PDF) % 2)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def video(path: Path, mp4: Path, **attributes: str) -> Dataset:
    """Write an H.264 video of 160 by 120 pixels as an endoscope does; its dataset. PS3.3 A.32.5, PS3.5 8.2.7."""
    dataset = _new(VideoEndoscopicImageStorage, MPEG4HP41, Modality="ES", **attributes)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 120, 160, 20
    dataset.FrameTime, dataset.CineRate, dataset.FrameIncrementPointer = "100", 10, 0x00181063
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_PARTIAL_420", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.LossyImageCompression = "01"
    dataset.PixelData = encapsulate([mp4.read_bytes()], has_bot=False)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def segmentation(path: Path, images: list[Dataset]) -> Dataset:
    """Write a segmentation that marks the middle ninth of each of a series' images; its dataset. PS3.3 A.51."""
    first = images[0]
    dataset = _new(SegmentationStorage, ExplicitVRLittleEndian, Modality="SEG")
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "StudyDate", "StudyTime", "FrameOfReferenceUID"):
        setattr(dataset, keyword, first[keyword].value)
    dataset.SeriesNumber, dataset.ContentLabel, dataset.ContentDescription = 99, "MIDDLE", "The middle"
    dataset.ImageType, dataset.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = first.Rows, first.Columns, len(images)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 1, 1, 0, 0
    dataset.LossyImageCompression = "00"
    dataset.ReferencedSeriesSequence = [
        _item(
            SeriesInstanceUID=first.SeriesInstanceUID,
            ReferencedInstanceSequence=[
                _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=image.SOPInstanceUID)
                for image in images
            ],
        )
    ]
    tissue = _code("85756007", "SCT", "Tissue")
    dataset.SegmentSequence = [
        _item(
            SegmentNumber=1,
            SegmentLabel="Middle",
            SegmentAlgorithmType="MANUAL",
            SegmentedPropertyCategoryCodeSequence=[tissue],
            SegmentedPropertyTypeCodeSequence=[tissue],
            RecommendedDisplayCIELabValue=[43803, 26565, 37722],
        )
    ]
    organization = generate_uid()
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=group,
        )
        for pointer, group in ((0x0062000B, 0x0062000A), (0x00200032, 0x00209113))
    ]
    spacing = _item(SliceThickness=first.SliceThickness, PixelSpacing=first.PixelSpacing)
    dataset.SharedFunctionalGroupsSequence = [
        _item(
            PixelMeasuresSequence=[spacing],
            PlaneOrientationSequence=[_item(ImageOrientationPatient=first.ImageOrientationPatient)],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            DerivationImageSequence=[
                _item(
                    DerivationCodeSequence=[_code("113076", "DCM", "Segmentation")],
                    SourceImageSequence=[
                        _item(
                            ReferencedSOPClassUID=image.SOPClassUID,
                            ReferencedSOPInstanceUID=image.SOPInstanceUID,
                            PurposeOfReferenceCodeSequence=[_code("121322", "DCM", "Source image")],
                        )
                    ],
                )
            ],
            FrameContentSequence=[_item(DimensionIndexValues=[1, number])],
            PlanePositionSequence=[_item(ImagePositionPatient=image.ImagePositionPatient)],
            SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=1)],
        )
        for number, image in enumerate(images, 1)
    ]
    mask = np.zeros((first.Rows, first.Columns), dtype=np.uint8)
    mask[first.Rows // 3 : first.Rows * 2 // 3, first.Columns // 3 : first.Columns * 2 // 3] = 1
    dataset.PixelData = pack_bits(np.stack([mask] * len(images)))
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def _new(sop_class: str, transfer_syntax: str, **attributes: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(transfer_syntax)
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
