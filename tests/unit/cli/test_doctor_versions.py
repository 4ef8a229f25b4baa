"""What the doctor makes of the versions that services run in."""

from clients.cli.doctor.versions import assess_versions
from contracts.version import VERSION


def test_one_version_is_fine_and_several_are_an_upgrade_to_finish():
    assert assess_versions({"registry": VERSION, "gateway": VERSION}).state == "ok"
    mixed = assess_versions({"registry": VERSION, "monitor": "9.0.0", "gateway": None})
    assert (mixed.state, mixed.detail) == (
        "warning",
        f"this command line is {VERSION}; {VERSION}: registry; 9.0.0: monitor; an unknown version: gateway",
    )
    assert assess_versions({"registry": "9.0.0"}).state == "warning", "the command line is older"
    assert assess_versions({}).state == "skipped"
    unheard = assess_versions({"registry": VERSION}, ["gateway", "mirror"])
    ending = "; not heard (not running, or of an earlier version): gateway, mirror"
    assert (unheard.state, unheard.detail) == (
        "ok",
        f"the 1 services that report run in {VERSION}, as this command line{ending}",
    )
    assert assess_versions({"registry": "9.0.0"}, ["gateway", "mirror"]).detail.endswith(ending)
