"""An answer with its evidence as one self-contained HTML page."""
