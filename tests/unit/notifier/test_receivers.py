"""The file of receivers: what it may say, and what is refused with the reason."""

import base64

import pytest

from services.notifier.settings import PAGERDUTY, read_receivers

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def write(tmp_path):
    (tmp_path / "secret").write_text(f"{SECRET}\n{SECRET}\n")
    (tmp_path / "address").write_text("https://hooks.slack.example/services/T0/B0/x\n")
    (tmp_path / "empty").write_text("\n")

    def write(text):
        file = tmp_path / "receivers.toml"
        file.write_text(text.replace("DIR", str(tmp_path)))
        return file

    return write


def test_without_a_file_nobody_is_told():
    assert read_receivers(None) == ()


def test_each_kind_is_read(write):
    read = read_receivers(
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
            secret_file = "DIR/secret"
            severities = ["critical"]
            models = ["support-bot"]

            [[receiver]]
            name = "chat"
            kind = "slack"
            url_file = "DIR/address"

            [[receiver]]
            name = "pager"
            kind = "pagerduty"
            secret_file = "DIR/secret"
            """
        )
    )
    assert [each.receiver.kind for each in read] == ["alertmanager", "webhook", "slack", "pagerduty"]
    assert len(read[1].secrets()) == 2
    assert read[1].receiver.severities == ("critical",)
    assert read[2].address().get_secret_value().startswith("https://hooks.slack.example/")
    assert read[3].address().get_secret_value() == PAGERDUTY


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "a"\nkind = "slack"', "give one of url and url_file"),
        ('name = "a"\nkind = "slack"\nurl = "https://a"\nurl_file = "DIR/address"', "give one of url and url_file"),
        ('name = "a"\nkind = "webhook"\nurl = "https://a"', "needs a secret_file"),
        ('name = "a"\nkind = "pagerduty"', "needs a secret_file"),
        ('name = "a"\nkind = "webhook"\nurl = "https://a"\nsecret_file = "DIR/empty"', "is empty"),
        ('name = "a"\nkind = "webhook"\nurl = "https://a"\nsecret_file = "DIR/address"', "a secret of a webhook"),
        ('name = "a"\nkind = "slack"\nurl_file = "DIR/secret"', "holds no address"),
        ('name = "a"\nkind = "slack"\nurl_file = "DIR/absent"', "No such file"),
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
    with pytest.raises(ValueError, match="two receivers have the name a"):
        read_receivers(write(entry + entry))
