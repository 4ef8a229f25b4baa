"""The file of receivers: what it may say, and what is refused with the reason."""

import base64

import pytest

from services.notifier.settings import read_receivers

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "receivers.toml"
        file.write_text(text.replace("SECRET", SECRET))
        return file

    return write


def test_each_kind_is_read(write):
    manager, hook, chat = read_receivers(
        write(
            """
            [[receiver]]
            name = "manager"
            kind = "alertmanager"
            url = "http://alertmanager:9093"

            [[receiver]]
            name = "hook"
            kind = "webhook"
            url = "https://example.org/hook"
            secrets = ["SECRET", "SECRET"]
            severities = ["critical"]
            models = ["support-bot"]

            [[receiver]]
            name = "chat"
            kind = "slack"
            url = "https://hooks.slack.example/services/T0/B0/x"
            """
        )
    )
    assert [manager.kind, hook.kind, chat.kind] == ["alertmanager", "webhook", "slack"]
    assert (len(hook.secrets), hook.severities) == (2, ("critical",))
    assert SECRET not in repr(hook)
    assert "hooks.slack.example" not in repr(chat)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "a"\nkind = "slack"', "url"),
        ('name = "a"\nkind = "webhook"\nurl = "https://a"', "a webhook needs secrets"),
        ('name = "a"\nkind = "slack"\nurl = "https://a"\nsecrets = ["SECRET"]', "no other kind takes one"),
        ('name = "a"\nkind = "webhook"\nurl = "https://a"\nsecrets = ["SECRET", "x"]', "a secret of a webhook"),
        ('name = "a"\nkind = "slack"\nurl = "file:///etc/passwd"', "url"),
        ('name = "a"\nkind = "smoke"\nurl = "https://a"', "kind"),
        ('name = "A b"\nkind = "slack"\nurl = "https://a"', "name"),
        ('name = "a"\nkind = "slack"\nurl = "https://a"\nseverities = []', "severities"),
        ("name = ", "receivers.toml"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(write, text, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        read_receivers(write(f"[[receiver]]\n{text}\n"))
    assert SECRET not in str(refused.value)


def test_two_receivers_of_one_name_are_refused(write):
    entry = '[[receiver]]\nname = "a"\nkind = "slack"\nurl = "https://a"\n'
    with pytest.raises(ValueError, match="two receivers have the same name"):
        read_receivers(write(entry + entry))
