"""What the doctor makes of open alerts that a model is not watched."""

from clients.cli.doctor.watching import assess_watching


def test_an_open_alert_that_a_model_is_not_watched_is_a_failure():
    finding = assess_watching(["The policies of these versions are not known: 7."])
    assert (finding.state, finding.detail) == ("failure", "The policies of these versions are not known: 7.")
    assert assess_watching([]).state == "ok"
