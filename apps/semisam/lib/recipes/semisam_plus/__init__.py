"""SemiSAM+: a specialist in training asks frozen foundation models about unlabelled scans."""
