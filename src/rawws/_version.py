"""The version, read by the build and by `rawws --version`."""

__version__ = "0.1.0"
