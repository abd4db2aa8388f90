"""Learned partition decisions for the VVC reference encoder VTM."""

from importlib.metadata import version

__version__ = version("fastpart")
