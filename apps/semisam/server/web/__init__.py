"""The web application around MONAI Label: its gate, log-in, uploads, pages, and what OHIF is given."""
