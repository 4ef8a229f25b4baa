"""Adapters, one file per technology; modules that import torch run in the worker process only."""
