"""Which releases begin now, so that one team's many do not hold up another team's one at the workers. Pure."""

from collections.abc import Mapping
from datetime import datetime

from contracts.vocabulary import ModelName


def may_begin(model: ModelName, waiting: Mapping[ModelName, datetime], at_work: int, limit: int) -> bool:
    """Return whether a model's next release begins.

    Workers take work in the order in which it was requested. So a release waits behind at most `limit` of each other
    team. Within a team, the checkpoint that was announced first begins first.

    Args:
        model: the model.
        waiting: by model of the same team, when its next checkpoint was announced; only those that could begin now.
        at_work: releases of the team that workers have, or will have, something to do for.
        limit: the most of them.
    """
    first = sorted(waiting, key=lambda name: (waiting[name], name))
    return model in first[: max(limit - at_work, 0)]
