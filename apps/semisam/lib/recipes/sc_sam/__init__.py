"""SC-SAM: a U-Net and a SAM that teach each other."""
