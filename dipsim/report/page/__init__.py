"""The page of `dipsim report`: plain data first (`model`), then drawn as HTML, Markdown or a
picture."""
