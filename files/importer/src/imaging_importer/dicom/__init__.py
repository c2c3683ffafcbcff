"""What reads and writes the bytes of DICOM files, in the order in which a file meets it.

packed: the files in a packed file (zip, gzip)
dress: what a file is, by its first bytes
instance: an image, and who it is
elements: where the elements of a data set stand
display: why an image cannot be displayed
stamp: marks an image as a clinic's
correction: has text say how it is written
charsets: how text is written
"""
