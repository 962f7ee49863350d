"""What all figures are drawn with: canvas, looks, ticks, and clean SVG."""
