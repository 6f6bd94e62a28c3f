"""The page of `dipsim report`: plain data first (`model`), then drawn as HTML, Markdown or a
picture."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Folder of the template, the styles and the scripts."""
