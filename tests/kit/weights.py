"""A checkpoint's folder of one file of weights, in memory: what reads headers asks for its size and for ranges."""


class OneFile:
    """A remote folder with a single file of weights."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sizes = {"model.safetensors": len(data)}

    def read(self, _path: str, start: int, length: int) -> bytearray:
        return bytearray(self.data[start : start + length])
