"""What a stack keeps of its runtimes from one start to the next: their ports."""

from deploy.local import plan
from deploy.local.plan import StackConfig
from deploy.local.ports import keep_ports


def test_a_runtime_that_is_removed_and_added_again_has_the_ports_that_routes_name():
    with_next = plan.port_names(StackConfig(runtimes=("next",)))
    first = keep_ports(with_next, {})
    without = keep_ports(plan.port_names(StackConfig()), first)
    assert without == first
    assert keep_ports(with_next, without) == first


def test_a_new_runtime_takes_no_port_that_is_kept_for_another():
    first = keep_ports(plan.port_names(StackConfig(runtimes=("next",))), {})
    later = keep_ports(plan.port_names(StackConfig(runtimes=("other",))), first)
    assert len(set(later.values())) == len(later) == len(first) + 5
