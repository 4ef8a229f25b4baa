"""Changes of keys that wait for the audit log: noted before they are made, kept whole, and never a traceback."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli import audit_facts
from clients.cli.audit_facts import publish_journal
from clients.cli.change_journal import BEGUN, DAMAGED, Journal
from clients.cli.commands.keys import keys_app
from contracts.vocabulary import digest_of
from deploy.identity.key_files import KeysRefused
from deploy.identity.key_folder import KeyFolder

NOW = datetime(2026, 11, 26, tzinfo=UTC)


class Killed(BaseException):
    """What ends a program between two steps."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    keys = KeyFolder(tmp_path_factory.mktemp("state") / "keys")
    keys.prepare(["127.0.0.1"], NOW)
    return keys


@pytest.fixture
def keys(made):
    yield made
    (made.path / "changes.jsonl").unlink(missing_ok=True)
    for identity in made.identities():
        if identity.roles:
            made.remove(identity.name)


def noted(keys):
    return [(each.fact.action, each.fact.about) for each in Journal(keys.path).waiting()]


def command(keys, *arguments):
    return CliRunner().invoke(keys_app, [*arguments, "--folder", str(keys.path)])


def test_a_change_is_noted_with_the_keys_that_count_after_it(keys):
    assert command(keys, "add", "paula", "--role", "viewer").exit_code == 0
    (entry,) = Journal(keys.path).waiting()
    added = next(each for each in keys.identities() if each.name == "paula")
    assert (entry.fact.action, entry.fact.about) == ("key.add", "paula")
    assert entry.fact.details["public_keys"] == list(added.public_keys)
    assert (keys.path / "changes.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_change_whose_command_is_killed_after_it_is_noted(keys, monkeypatch):
    add = KeyFolder.add

    def killed(self, *arguments):
        add(self, *arguments)
        raise Killed

    monkeypatch.setattr(KeyFolder, "add", killed)
    with pytest.raises(Killed):
        command(keys, "add", "paula", "--role", "administrator")
    assert "paula" in {each.name for each in keys.identities()}
    (entry,) = Journal(keys.path).waiting()
    assert (entry.fact.action, entry.fact.about, entry.fact.details) == ("key.add", "paula", {"state": BEGUN})


def test_a_change_that_is_refused_leaves_no_note(keys):
    assert command(keys, "add", "merger", "--role", "viewer").exit_code != 0
    assert noted(keys) == []


def test_a_note_that_was_published_while_the_change_was_made_gets_its_end_all_the_same(keys):
    journal = Journal(keys.path)
    with journal.noting("key.add", "paula", dict, KeysRefused):
        (begun,) = journal.waiting()
        journal.published(begun)
    assert noted(keys) == [("key.add", "paula")]


def test_a_damaged_line_is_an_entry_of_its_own_and_hides_no_other(keys):
    journal = Journal(keys.path)
    for name in ("paula", "piet"):
        with journal.noting("key.add", name, dict, KeysRefused):
            pass
    first, second = journal.path.read_bytes().splitlines()
    torn = first[:40] + b"\xff"
    journal.path.write_bytes(torn + b"\n" + second + b"\n")
    damaged, whole = journal.waiting()
    assert (damaged.fact.action, damaged.fact.digest) == (DAMAGED, digest_of(torn))
    assert whole.fact.about == "piet"
    journal.published(damaged)
    assert noted(keys) == [("key.add", "piet")]


def test_a_program_that_dies_while_the_journal_is_written_loses_no_note(keys, monkeypatch):
    journal = Journal(keys.path)
    for name in ("paula", "piet"):
        with journal.noting("key.add", name, dict, KeysRefused):
            pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(Killed):
            journal.published(journal.waiting()[0])
    assert noted(keys) == [("key.add", "paula"), ("key.add", "piet")]


def test_changes_at_once_are_all_noted(keys):
    def change(name):
        with Journal(keys.path).noting("key.add", name, dict, KeysRefused):
            pass

    threads = [threading.Thread(target=change, args=(f"p{number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(noted(keys)) == sorted(("key.add", f"p{number}") for number in range(12))


def test_a_journal_that_cannot_be_published_is_a_warning(keys, monkeypatch):
    warnings = []
    monkeypatch.setattr(audit_facts, "warn", warnings.append)
    (keys.path / "changes.jsonl").write_bytes(b"{torn\n")
    publish_journal(keys.path, keys.path.parent)
    (keys.path / "changes.jsonl").unlink()
    (keys.path / "changes.jsonl").mkdir()
    publish_journal(keys.path, keys.path.parent)
    (keys.path / "changes.jsonl").rmdir()
    assert len(warnings) == 1
    assert "1 changes of keys wait" in warnings[0]
