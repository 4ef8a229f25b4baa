"""The object store's sockets outside its folder: removed by its ports, and those of no other store."""

from pathlib import Path

from deploy.local import weed


def test_a_store_that_has_ended_leaves_no_sockets_and_those_of_another_one_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(weed, "SOCKETS", tmp_path)
    own = [f"seaweedfs-{name}.sock" for name in ("s3-7175", "s3-grpc-17175", "filer-8784", "filer-grpc-18784")]
    others = ["seaweedfs-s3-717.sock", "seaweedfs-filer-grpc-8785.sock", "other-7175.sock"]
    for name in (*own, *others):
        (tmp_path / name).touch()
    ports = ["-s3.port=7175", "-s3.port.grpc=17175", "-filer.port=8784", "-filer.port.grpc=18784", "-s3.port.iceberg=0"]
    weed.remove_sockets([*weed.weed_arguments(Path("weed"), Path("data"), Path("keys")), *ports])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
