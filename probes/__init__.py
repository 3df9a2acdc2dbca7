"""Measure: probes, taps, the buffer and the governor. torch only; no SQL, no plotting."""
