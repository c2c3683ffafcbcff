"""What reads and writes the bytes of DICOM files."""
