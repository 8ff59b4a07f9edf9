"""Keystile in one process: both services, and a store of their own.

The only package that knows both. The services find it by its entry points, and never import it.
"""

from importlib.metadata import version

__version__ = version("keystile-embedded")
