"""The figures: one module each, whose `draw` returns a drawing that `canvas.save` writes as PNG and SVG."""
