"""The commands of `slipway`, one file each."""
