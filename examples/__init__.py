"""Worked examples on real parts."""
