"""The registry: admits checkpoints, numbers versions, and runs each release to one outcome."""
