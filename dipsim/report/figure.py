"""The figure that all pictures are drawn in; it loads matplotlib."""

import warnings
from io import BytesIO
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure that a notebook shows although nothing there has loaded pyplot."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        FigureCanvasAgg(self)

    def savefig(self, *args: Any, **options: Any) -> None:
        """Write it as any figure; characters that the font lacks become boxes, without warnings."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")
            super().savefig(*args, **options)

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png", dpi=self.dpi)
        return file.getvalue()
