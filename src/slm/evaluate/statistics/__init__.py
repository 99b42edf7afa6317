"""Numbers about numbers: intervals, tests, power, corrections, calibration. Arrays in, small records out; no files."""
