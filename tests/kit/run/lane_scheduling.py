"""The scheduler of pytest-xdist that distributes the files by their lanes (lanes.py)."""

from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.kit.run.lanes import choose, unit_of


class LaneScheduling(LoadScopeScheduling):
    """A scheduler that sends each worker the next file of its lane."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        busy = [node for node in self.nodes if not node.shutting_down]  # the others take nothing more
        alive = sorted(busy, key=lambda node: int(node.gateway.id.removeprefix("gw")))
        file = choose(list(self.workqueue), alive.index(node), len(alive))
        if file is None:
            node.shutdown()  # after what it has: a worker begins its last test only when it knows what follows
            return
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
