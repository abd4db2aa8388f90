"""Pinned, interleaved measurement of encoders against each other."""
