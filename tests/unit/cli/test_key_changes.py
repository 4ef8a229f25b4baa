"""Changes of keys while the bus cannot be reached: they are made, and a warning names them; no traceback."""

import pytest
from typer.testing import CliRunner

from clients.cli.commands.installation.keys import keys_app
from deploy.identity.key_folder import KeyFolder
from shared.runtime.clock import SystemClock


@pytest.mark.parametrize("damaged", [False, True])
def test_a_change_that_the_audit_log_does_not_get_is_named(tmp_path, damaged):
    keys = KeyFolder(tmp_path / "keys")
    keys.prepare(["127.0.0.1"], SystemClock().now())
    if damaged:
        (tmp_path / "stack.json").write_text("{torn")
    done = CliRunner().invoke(keys_app, ["add", "paula", "--role", "viewer", "--folder", str(keys.path)])
    assert done.exit_code == 0, done.output
    assert "paula" in {each.name for each in keys.identities()}
    assert "key.add paula" in done.stderr
