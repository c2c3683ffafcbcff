"""Reads and writes the bytes of DICOM files. The modules, in the order in which a file meets them:

packed: the files in a packed file (zip, gzip)
dress: the kind of a file, by its first bytes
instance: an image and its identifiers
elements: the positions of the elements of a data set
display: the reasons why an image cannot be displayed
stamp: marks an image as a clinic's
correction: makes text name its character set
charsets: the character set of a text
"""
