"""Sweeps: grids of encodes, cell by cell, on one machine or a cluster, stoppable at any time."""
