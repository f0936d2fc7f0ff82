"""The site that weights come from, for every test here."""

from weight_site import entry, folder, site  # noqa: F401 (fixtures)
