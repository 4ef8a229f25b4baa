"""A model folder as `slipway pull` leaves it: stored and signed as the services do, then pulled by the command."""

from pathlib import Path

from shared.storage.blobs import Store
from testbed.attesters import attester_keys
from testbed.released import release
from testbed.servers import S3Server, connection, running
from testbed.services import environment
from tests.kit.command import run_command


def pulled(model: Path, root: Path) -> Path:
    """Return a folder with the files of a model that a store had meanwhile."""
    keys, folder = root / "keys", root / "pulled"
    for each in (keys, root / "store", root / "work"):
        each.mkdir(parents=True)
    with running(S3Server(root / "store")) as server:
        settings = connection(None, server, root / "work")
        store = Store(settings)
        release(store, keys, "pulled", files=store.put_folder(model).files)
        variables = {**environment(settings), "SLIPWAY_ATTESTERS": str(attester_keys(keys).listing)}
        status, _, err = run_command(variables, "pull", "pulled@v2", str(folder), "--variant", "bf16")
        assert status == 0, err
    return folder
