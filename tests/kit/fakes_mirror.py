"""What the mirror uses from outside, in memory."""

from collections import defaultdict

from services.mirror.domain.plan import Mirrored
from services.mirror.ports import Unavailable


class FakeRegistry:
    """A registry that numbers versions itself, as MLflow does (implements `services.mirror.ports.Registry`)."""

    name = "fake"

    def __init__(self):
        self.versions = defaultdict(dict)
        """By model: what is mirrored, by the registry's own number."""
        self.aliases = defaultdict(dict)
        self.named = defaultdict(dict)
        """By model: the registry's own number of each alias."""
        self.down = False
        self.on_call = lambda: None
        """Called at the beginning of each call: it may raise."""
        self.calls = 0
        self._last = 0

    async def mirrored(self, model):
        self._reach()
        return list(self.versions[model].values())

    async def put(self, history, fingerprint, present):
        self._reach()
        manifest = history.manifest
        if present is None:
            self._last += 1
        number = str(self._last) if present is None else present.name_there
        mirrored = Mirrored(manifest.version, fingerprint, number, manifest.merged.uri)
        self.versions[manifest.model][number] = mirrored
        return mirrored

    async def point(self, model, aliases):
        self._reach()
        self.named[model] = {alias: mirrored.name_there for alias, mirrored in aliases.items()}
        self.aliases[model] = {alias: mirrored.version for alias, mirrored in aliases.items()}

    async def shown(self, model):
        return dict(self.aliases[model])

    async def forget(self, model, number):
        del self.versions[model][number]

    def _reach(self):
        self.calls += 1
        self.on_call()
        if self.down:
            raise Unavailable("the fake registry is down")


class FakeVersions:
    """Registered versions in memory (implements `services.mirror.ports.Versions`)."""

    def __init__(self):
        self.histories = {}
        self.fingerprints = {}

    def add(self, history, fingerprint):
        key = (history.manifest.model, history.manifest.version)
        self.histories[key], self.fingerprints[key] = history, fingerprint

    async def models(self):
        return sorted({model for model, _ in self.fingerprints})

    async def states(self, model):
        return {version: state for (name, version), state in self.fingerprints.items() if name == model}

    async def source(self, model, version):
        listed = self.histories[model, version]
        return None if isinstance(listed, Exception) else listed.manifest.merged.uri

    async def history(self, model, version):
        listed = self.histories[model, version]
        if isinstance(listed, Exception):
            raise listed
        return listed


class FakeChanges:
    """Routes and the log's new facts in memory (implements `services.mirror.ports.Changes`)."""

    def __init__(self):
        self.routes = {}
        self.mirrors = {}
        self.new = set()

    async def route(self, model):
        return self.routes.get(model)

    async def declared(self):
        return dict(self.mirrors)

    async def changed(self):
        new, self.new = self.new, set()
        return new
