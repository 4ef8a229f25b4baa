"""An object whose bytes change on the disk of the embedded store, which answers its readers with errors from then on."""

from shared.storage.blobs import Store
from testbed.servers import S3Server


def rot(server: S3Server, store: Store, key: str) -> None:
    """Write an object once more, and flip a bit of what the store put on its disk for it."""
    volumes = sorted((server.folder / "data").rglob(f"{store.bucket}_*.dat"))
    before = {path: path.stat().st_size for path in volumes}
    data = store.find(key)
    assert data, f"{key} is in the store"
    store._client.write(store.bucket, key, memoryview(data))
    for path in sorted((server.folder / "data").rglob(f"{store.bucket}_*.dat")):
        start, end = before.get(path, 0), path.stat().st_size
        if end > start:
            with path.open("r+b") as file:
                file.seek((start + end) // 2)
                byte = file.read(1)[0]
                file.seek((start + end) // 2)
                file.write(bytes([byte ^ 1]))
