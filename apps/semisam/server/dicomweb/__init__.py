"""A DICOMweb server as a study: its series are the scans, its SEG objects the labels."""
