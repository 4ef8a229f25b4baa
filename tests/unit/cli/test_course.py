"""When a version took traffic, from what, and what took it over: by the records of deployments."""

from clients.cli.releases.version_records import course_of
from contracts.manifests import DeploymentRecord
from testbed import factories as f

OLD, NEW, OTHER = f.target(1), f.target(2), f.target(3)


def record(epoch, target, cause, weight=1.0):
    return DeploymentRecord(
        target=target, epoch=epoch, cause=cause, cause_id=f"c{epoch}", weight_ratio=weight, deployed_at=f.after(epoch)
    )


def test_the_course_of_a_version_has_what_it_replaced_and_what_replaced_it():
    records = [
        record(1, OLD, "promote"),
        record(2, NEW, "canary", 0.1),
        record(3, NEW, "promote"),
        record(4, OLD, "rollback"),
        record(5, OTHER, "promote"),
    ]
    assert course_of(records, 2) == [(records[1], OLD), (records[2], OLD), (records[3], NEW)]
    assert course_of(records, 1) == [(records[0], None), (records[2], OLD), (records[3], NEW), (records[4], OLD)]
    assert course_of(records, 9) == []
