"""From a capture folder to a tracked sequence: formats, checks, matting, colour, tracking."""
