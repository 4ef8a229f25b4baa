"""Measures a staged candidate against its baseline, and judges it by the gates of its policy."""
