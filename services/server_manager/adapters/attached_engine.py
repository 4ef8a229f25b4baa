"""Engine adapter for one model's attached servers, which Slipway neither starts nor stops.

"Loading" a target checks it: every replica of a group lists its name, applies the version's chat template (if it can
render one), and generates a token. For a target in a route, one replica suffices. A target that no group lists is
gone; it is checked again once listed.

With a folder of `adapters`, a version's LoRA is copied there and loaded into each replica of a group under the target's
name; its answers must differ from the base model's. It is unloaded when unneeded.
"""

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

import structlog

from contracts.codes import Code
from contracts.vocabulary import Digest, Runtime, ServingSettings
from decisions.backoff import backoff_s
from services.server_manager.adapters.artifact_cache import read_texts
from services.server_manager.adapters.placed_adapters import list_placed, note_proven, place, remove
from services.server_manager.domain.description import describe_model
from services.server_manager.ports import ADAPTER, Groups, Indexed, Parts, Permit, allow
from services.server_manager.references import KeptReferences
from shared.errors import SlipwayError, Transient
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.serving.http_channel import Listed
from shared.serving.inference import first_token

LIST_S = 1.5
"""Seconds for a server to list its models, within the wait of `indexes`."""
KEPT_S = 10.0
"""Seconds for which a silent server's last list counts."""
CHECK_S = 60.0
"""Seconds for the first token in a check."""
RETRY_S, MAX_RETRY_S = 4.0, 60.0
"""Seconds of pause after a failed check, doubled by each failure up to `MAX_RETRY_S`."""
OTHERS: frozenset[Code] = frozenset({"load_failed", "logprobs_differ"})
"""Codes of a replica that answers, but serves another version."""
CONVERSATION = ({"role": "user", "content": "Is 7 a prime number? Answer yes or no."},)
"""Rendered to compare a server's chat template with the version's."""


class AttachedEngine:
    """The attached servers of a model, in groups of replicas (implements `ports.AttachedGroups`)."""

    runtime: Runtime | None = None

    def __init__(
        self,
        model: str,
        channels: Channels,
        templates: ChatTemplates,
        groups: Groups,
        references: KeptReferences,
        *,
        retry_s: float = RETRY_S,
    ) -> None:
        """Set the groups' initial addresses, and the first pause after a failed check.

        `references`: targets' answers at staging.
        """
        self._retry_s = retry_s
        self.groups = groups
        self.adapters: Path | None = None
        self.in_routes: Groups = {}
        self._model = model
        self._channels = channels
        self._templates = templates
        self._references = references
        self._listed: dict[str, dict[str, Listed]] = {}
        self._heard_s: dict[str, float] = {}
        self._checked: dict[str, Indexed] = {}
        self._placed: dict[str, Digest | None] = {}
        self._rendered: dict[str, str | None] = {}
        self._failed: dict[str, tuple[int, float]] = {}
        """By target: consecutive failed checks, and the monotonic end of the pause."""
        self._digests: dict[str, Digest] = {}
        self._others: dict[str, frozenset[str]] = {}
        """By target: replicas that list it with another chat template or other weights."""

    @property
    def parts(self) -> Parts:
        """The files of a version that this engine needs."""
        return "texts" if self.adapters is None else "adapter"

    @property
    def endpoint(self) -> str:
        """All addresses, comma-separated, for messages; `none` without one."""
        return ", ".join(url for urls in self.groups.values() for url in urls) or "none"

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return the replicas of groups that list a target, including silent ones, without `_others`."""
        return tuple(url for url in self._replicas(name) if url not in self._others.get(name, ()))

    def _replicas(self, name: str) -> list[str]:
        groups = [urls for urls in self.groups.values() if any(self._lists(url, name) for url in urls)]
        return [url for urls in groups for url in urls]

    def listed(self, url: str) -> frozenset[str] | None:
        """Return the model names that a replica last listed; None if it did not answer."""
        return frozenset(self._listed[url]) if url in self._listed else None

    def context_tokens(self, name: str) -> int | None:
        """Return the longest context in tokens that all replicas accept; None if unknown."""
        told = (self._listed.get(url, {}).get(name) for url in self.addresses(name))
        return min((listed.context_tokens for listed in told if listed and listed.context_tokens), default=None)

    def may_have(self, name: str) -> bool:
        """Return whether all replicas of a group last listed a target, and its pause is over.

        An adapter need not be listed, because it can be loaded; the base model (version 0) must be.
        """
        _, until_s = self._failed.get(name, (0, 0.0))
        is_loaded_here = self.adapters is not None and ".v0." not in name and bool(self._listed)
        return (is_loaded_here or bool(self._group_of(name))) and asyncio.get_running_loop().time() >= until_s

    def _group_of(self, name: str) -> tuple[str, ...]:
        """Return the group that lists a target completely; else, for a routed target, its listing replicas."""
        whole = next((urls for urls in self.groups.values() if all(self._lists(url, name) for url in urls)), ())
        listing = (url for url in self._replicas(name) if name in self.in_routes and self._lists(url, name))
        return whole or tuple(listing)

    def _lists(self, url: str, name: str) -> bool:
        return name in self._listed.get(url, ())

    async def index(self) -> Mapping[str, Indexed]:
        """Return the checked targets that a server lists; raise Transient `endpoint_unreachable` if none answers.

        A silent server's last list counts for `KEPT_S`: gateways eject it themselves, and probes fail.
        """
        urls = [url for group in self.groups.values() for url in group]
        answers = await asyncio.gather(
            *(self._channels.get(url).list_models(LIST_S) for url in urls), return_exceptions=True
        )
        now_s = asyncio.get_running_loop().time()
        listed = {url: names for url, names in zip(urls, answers, strict=True) if isinstance(names, dict)}
        self._heard_s = {url: now_s if url in listed else self._heard_s.get(url, -KEPT_S) for url in urls}
        kept = {url: names for url, names in self._listed.items() if now_s - self._heard_s.get(url, 0.0) < KEPT_S}
        for url, names in listed.items():
            for name in names.keys() - self._listed.get(url, {}).keys():
                self._references.forget(url, name)
        self._listed = {**{url: names for url, names in kept.items() if url in urls}, **listed}
        failure = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        if failure is not None and not listed:
            raise failure
        self._checked = {name: entry for name, entry in self._checked.items() if self.addresses(name)}
        self._failed = {
            name: failed for name, failed in self._failed.items() if self.adapters is not None or self._group_of(name)
        }
        if self.adapters is None:  # a missing record removes no known target
            return dict(self._checked)
        before = self._placed
        try:
            self._placed = await asyncio.to_thread(list_placed, self.adapters, self._model)
        except OSError as error:  # the servers may be healthy
            structlog.get_logger().error("the folder of adapters is not readable", reason=str(error))
        for name in before.keys() - self._placed.keys():  # after a change of folder: the next load copies it
            self._checked.pop(name, None)
        has_all = len(self._listed) == len(urls)  # then unlisted adapters without a route can be unloaded
        unloaded = self._placed.keys() - self.in_routes.keys() if has_all else ()
        unknown = {name for name in self._placed if self.addresses(name) or name in unloaded} - self._checked.keys()
        return {**self._checked, **{name: self._recall(name) for name in unknown}}

    def _recall(self, name: str) -> Indexed:
        """Return the entry of an adapter loaded by an earlier process; a proven one counts as checked."""
        digest = self._placed[name]
        entry = Indexed(ready=True, digest=digest, memory_bytes=0)
        if digest is not None:
            self._checked[name], self._digests[name] = entry, digest
        return entry

    async def load(
        self,
        name: str,
        folder: Path,
        *,
        digest: Digest,
        memory_bytes: int,
        serving: ServingSettings | None = None,  # noqa: ARG002
        permit: Permit = allow,
    ) -> None:
        """Load a LoRA if there is one, then check that a group's replicas list the target and generate.

        For a target in a route one replica suffices.

        Raises:
            Transient: `endpoint_unreachable` while no group lists the target completely, or a replica is silent;
                `load_failed` if a replica does not generate, or has another chat template; `logprobs_differ` for
                other weights.
        """
        await permit()
        await self.index()
        try:
            failures = await self._load_adapter(name, folder / ADAPTER)
        except OSError as error:
            self._pause(name)
            raise Transient("load_failed", f"The LoRA of {name} is not put into {self.adapters}: {error}") from error
        urls = self._group_of(name)
        if not urls:
            self._pause(name)
            raise [*failures, Transient("endpoint_unreachable", self._describe_absence(name))][0]
        self._rendered[name], self._digests[name] = await self._render(folder), digest
        for url in urls:
            self._references.forget(url, name)
        answers = await self._ask_all(urls, name, CHECK_S)
        failures = [answer for answer in answers.values() if isinstance(answer, SlipwayError)]
        if failures and (name not in self.in_routes or len(failures) == len(answers)):
            self._pause(name)
            codes = [failure.code for failure in failures]
            reasons = "; ".join(failure.reason for failure in failures)
            reason = f"{name} is listed, and not served by each replica: {reasons}"
            other: Code = "logprobs_differ" if "logprobs_differ" in codes else "load_failed"
            raise Transient("endpoint_unreachable" if "endpoint_unreachable" in codes else other, reason)
        self._checked[name] = Indexed(ready=True, digest=digest, memory_bytes=memory_bytes)
        self._failed.pop(name, None)
        self._leave_others_out(name, answers)
        if name in self._placed and self.adapters is not None:
            await asyncio.to_thread(note_proven, self.adapters / name, digest)

    def _pause(self, name: str) -> None:
        count = self._failed.get(name, (0, 0.0))[0] + 1
        until_s = asyncio.get_running_loop().time() + backoff_s(count, self._retry_s, MAX_RETRY_S)
        self._failed[name] = count, until_s

    async def _load_adapter(self, name: str, source: Path) -> list[SlipwayError]:
        """Copy a LoRA to the shared folder, and load it into replicas without it; do nothing for other models."""
        if self.adapters is None or not await asyncio.to_thread(place, source, self.adapters, name):
            return []
        return await self._load_where_missing(name, self.adapters)

    async def _load_where_missing(self, name: str, adapters: Path) -> list[SlipwayError]:
        """Load an adapter into each answering replica of its group that does not list it; return the errors.

        The group is the one that lists it, else the one in its route, else one without the active version.
        """
        own, active = self.in_routes.get(name, ()), next(iter(self.in_routes.values()), ())
        groups = sorted(self.groups.values(), key=lambda urls: (set(own).isdisjoint(urls), bool({*active} & {*urls})))
        urls = self._replicas(name) or [url for group in groups[:1] for url in group]
        missing = [url for url in urls if url in self._listed and not self._lists(url, name)]
        orders = (self._channels.get(url).load_adapter(name, str(adapters / name), CHECK_S) for url in missing)
        answers = await asyncio.gather(*orders, return_exceptions=True)
        await self.index()  # also without `missing`: the LoRA must be proven
        return [answer for answer in answers if isinstance(answer, SlipwayError)]

    def _describe_absence(self, name: str) -> str:
        listed = (
            f"{url} lists {', '.join(sorted(names))[:200] or 'none'}" for url, names in sorted(self._listed.items())
        )
        return f"No attached group of {self._model} serves {name}: {'; '.join(listed)}."

    async def _render(self, folder: Path) -> str | None:
        """Return `CONVERSATION` rendered by a version's chat template; None without one, or if rendering fails."""
        try:
            known = describe_model(await asyncio.to_thread(read_texts, folder))
            if known.chat_template is None:
                return None
            return await self._templates.render(
                known.chat_template, CONVERSATION, bos_token=known.bos_token, eos_token=known.eos_token
            )
        except (SlipwayError, ValueError, OSError):
            return None

    async def _ask_all(self, urls: Iterable[str], name: str, limit_s: float) -> dict[str, str | SlipwayError]:
        """Return the first text that each replica generates, or its error, by address."""

        async def ask(url: str) -> tuple[str, str | SlipwayError]:
            try:
                return url, await self._ask(url, name, limit_s)
            except SlipwayError as error:
                return url, Transient(error.code, f"{url}: {error.reason}")
            except Exception as error:  # noqa: BLE001 - one replica must not hide the others
                return url, Transient("endpoint_unreachable", f"{url}: {type(error).__name__}: {error}")

        return dict(await asyncio.gather(*map(ask, urls)))

    async def _ask(self, url: str, name: str, limit_s: float) -> str:
        channel, expected = self._channels.get(url), self._rendered.get(name)
        rendered = await channel.render(name, CONVERSATION, limit_s) if expected is not None else None
        if expected is not None and rendered is not None and expected.split() != rendered.split():
            reason = f"a question is {rendered[:500]!r} there, and {expected[:500]!r} by the version's"
            raise Transient("load_failed", f"it has another chat template: {reason}")
        token = await first_token(channel, name, deadline_s=limit_s)
        entry = self._listed.get(url, {}).get(name)
        if entry is None:
            raise Transient("endpoint_unreachable", f"it does not list {name}")
        base = entry.parent if self.adapters is not None else None
        conditions = f"{self._digests[name]}, {'attached' if base is None else 'adapter'}"
        await self._references.check(channel, name, url, conditions, limit_s, base=base)
        return token

    async def unload(self, name: str, *, wait: bool = True, permit: Permit = allow) -> None:  # noqa: ARG002
        """Drop the check of a target, and unload its adapter if Slipway loaded one; the servers keep running."""
        await permit()
        self._checked.pop(name, None)
        if self.adapters is None or name not in self._placed:
            return
        listing = [url for url in self._replicas(name) if self._lists(url, name)]
        orders = (self._channels.get(url).unload_adapter(name, CHECK_S) for url in listing)
        for answer in await asyncio.gather(*orders, return_exceptions=True):
            if isinstance(answer, BaseException):
                structlog.get_logger().warning("an adapter is not unloaded", target=name, reason=str(answer))
        await self.index()
        if not any(self._lists(url, name) for url in self._replicas(name)):  # else the next unload needs its files
            await asyncio.to_thread(remove, self.adapters, name)
            self._placed.pop(name, None)

    async def probe(self, name: str, deadline_s: float) -> str:
        """Return the first text that any replica generates; raise if all replicas fail.

        Replicas that now have another chat template or other weights are left out until they match again.
        """
        refused: list[SlipwayError] = []
        if self.adapters is not None and name in self._checked and name in self._placed:
            refused = await self._load_where_missing(name, self.adapters)
            for failure in refused:
                structlog.get_logger().warning("an adapter is not loaded again", target=name, reason=failure.reason)
        answers = await self._ask_all(self._replicas(name) if name in self._checked else (), name, deadline_s)
        failures = self._leave_others_out(name, answers)
        token = next((answer for answer in answers.values() if isinstance(answer, str)), None)
        if token is not None:
            return token
        absent = Transient("endpoint_unreachable", self._describe_absence(name))
        raised = [*failures.values(), *refused, absent]
        raise next((failure for failure in raised if failure.code != absent.code), raised[0])

    def _leave_others_out(self, name: str, answers: Mapping[str, str | SlipwayError]) -> dict[str, SlipwayError]:
        """Exclude replicas of another version from a target's addresses; return all errors, by address."""
        failures = {url: answer for url, answer in answers.items() if isinstance(answer, SlipwayError)}
        others = frozenset(url for url, failure in failures.items() if failure.code in OTHERS)
        for url in others - self._others.get(name, frozenset()):
            structlog.get_logger().error("a replica is left out", target=name, reason=failures[url].reason)
        self._others[name] = others
        return failures
