"""Fixtures of the downloads: a site, a folder for weights, and the entry of a model whose file is on the site."""

from __future__ import annotations

from weight_site import entry, folder, site

__all__ = ["entry", "folder", "site"]
