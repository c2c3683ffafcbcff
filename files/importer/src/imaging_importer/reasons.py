"""The reasons why a file was not imported: a code for machines, a sentence for the technician who delivered it."""

SENTENCES = {
    "conflicting-bytes": "The archive already holds an image with this SOPInstanceUID but different content. "
    "The archived image was kept. If this one is a correction, the sending system must give it a new SOPInstanceUID.",
    "damaged": "The file says it is DICOM but cannot be read. Export it again from the modality or PACS.",
    "deleted-meanwhile": "An administrator deleted the study in the archive while it was being imported. "
    "Deliver it again if it should be there.",
    "device-file": "This is a device, pipe or socket, not a file with an image. Deliver the file itself.",
    "dropped": "The administrator ended this delivery before the file was imported. Ask the administrator why.",
    "empty-file": "The file is empty, as after a copy that broke off. Copy it again.",
    "executable-preamble": "The file begins like a program, which an image never does. "
    "It was not imported; have the sending computer checked for malware.",
    "hard-link": "The file is a second name (hard link) of a file outside this folder. Deliver a copy of the file.",
    "importer-stumbled": "The importer itself stumbled over this delivery, each time that it was tried again. "
    "Ask the administrator, whose log says where.",
    "invalid-identifiers": "A UID of the image is not a valid DICOM UID (digits and dots, at most 64). "
    "Export it again with valid UIDs.",
    "misread": "The archive read the image as another one than it says it is. It was taken out again. "
    "Have the sending system looked at: such a file is damaged, or made to deceive.",
    "missing-identifiers": "The image lacks a Study, Series or SOP Instance UID or SOP Class UID. "
    "Export it again from the modality or PACS.",
    "missing-transfer-syntax": "The image does not say how its pixels are compressed. "
    "Export it again as a DICOM file with file meta information.",
    "no-dicom": "The folder holds no DICOM image at all. Check that the right folder was copied.",
    "not-accepted": "The archive does not take this image for your clinic. The administrator can say why.",
    "not-listable": "The archive's study list does not take a text of this study. "
    "Ask the administrator; the sending system has to write it shorter, or otherwise.",
    "owned-by-another-clinic": "This study was first delivered by another clinic and belongs to it. "
    "Nothing was stored. Ask the administrator if the study should change hands.",
    "packed-damaged": "The zip or gzip file is damaged, as after a copy that broke off. "
    "Copy it again, or unpack it and deliver the files.",
    "packed-encrypted": "The zip file has a password. Unpack it and deliver the files.",
    "packed-kind": "The file is packed in a way that is not unpacked here; plain zip and gzip are, in delivered "
    "folders. Unpack it and deliver the files.",
    "packed-too-large": "There is more in the zip or gzip file than is unpacked: too many files, too large ones, or "
    "ones that grow too much. Unpack it and deliver the files.",
    "patient-mismatch": "The archive holds this study under another PatientID. Two patients cannot share one study. "
    "Correct the PatientID or the StudyInstanceUID and deliver it again.",
    "refused-by-archive": "Orthanc could not read the image and refused it. Export it again from the modality or PACS.",
    "signed": "The image carries a digital signature over an element that the import has to set (InstitutionName) "
    "or to correct (text in an untrue character set). "
    "Importing it would break the signature. Deliver it without the signature.",
    "stops-the-archive": "The archive stopped working each time it was sent this image, or others of its delivery. "
    "It is not sent again. Keep the file for the makers of the archive.",
    "symbolic-link": "This is a link to a file elsewhere, and links are not followed. Deliver the file itself.",
    "too-deep": "The delivery has directories in directories, or paths, beyond what is taken (32 deep, 2048 bytes). "
    "Nothing of it was imported. Deliver it in a flatter folder.",
    "too-large": "The image is larger than the archive's memory bears. "
    "Export it in parts, or ask the administrator to raise the limit.",
    "too-large-inflated": "The compressed (deflated) image grows beyond the permitted size. "
    "Export it with another transfer syntax.",
    "too-many-files": "The delivery has more than two million files and directories. Nothing of it was imported. "
    "Deliver it in several folders.",
    "truncated": "The file ends in the middle, as after a copy that broke off. Copy it again.",
    "unknown-transfer-syntax": "The image names a transfer syntax (how it is compressed) that is not known here. "
    "Export it again with another one.",
    "unknown-vr": "An element of the image names a data type (value representation) that DICOM does not know, "
    "so that programs read the image differently. Have the manufacturer of the sending system mend its export.",
    "unreadable": "The file cannot be opened for reading. Check its permissions and copy it again.",
    "upload-unfinished": "The name says that the upload was still running, but nothing was added for a long time. "
    "Copy it again, and let the copy finish.",
    "withdrawn": "The folder was taken away before it was imported. Deliver it again if it should be there.",
}

# For each of these, the sender reads one neutral sentence, so that nobody learns whose a study is. The true reason is
# in the journal, and so in `imaging-importer status`, in the log, the metrics and the alerts.
NEUTRAL = "not-accepted"
UNTOLD = frozenset({"misread", "owned-by-another-clinic", "refused-by-archive", "stops-the-archive"})


def told(reason: str) -> str:
    """The reason as the sender may know it."""
    return NEUTRAL if reason in UNTOLD else reason


# Sentences about a stored image, beside the result; the detail of each file says more.
NOTES = {
    "not-displayable": "The image is stored and can be downloaded, but cannot be displayed.",
    "text-corrected": "The image said untruly, not at all, or not so that every program understands it, how its text "
    "is written. It is stored so that all read the same; the values as delivered are kept in it.",
}

# These files are kept with the delivery and counted. They are neither stored nor a failure.
NOT_DICOM = "not-dicom"
DICOMDIR = "dicomdir"
PACKED = "packed"
KEPT = {
    NOT_DICOM: "This is no DICOM image.",
    DICOMDIR: "This is the table of contents of a DICOM medium. The images that it lists are files of their own.",
    PACKED: "This zip or gzip file was unpacked; the files in it are listed and counted like any other.",
}


class RejectedError(Exception):
    """A delivered file can never be imported as it is; `reason` is a key of SENTENCES."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class CompanionError(Exception):
    """A delivered file is no instance (text, DICOMDIR...). It stays with the delivery; `reason` says what it is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TransientError(Exception):
    """Something outside the delivery does not work now.

    The same step is tried again later, as often as necessary.
    """


class UnavailableError(TransientError):
    """A service that every delivery needs does not answer; `service` names it."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(f"{service}: {message}")
        self.service = service


class BrokenOffError(UnavailableError):
    """The service stopped or hung while something was sent to it."""
