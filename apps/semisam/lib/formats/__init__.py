"""Files of scans and labels: NIfTI, NRRD, MetaImage, DICOM images, pictures."""
