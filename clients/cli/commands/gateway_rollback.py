"""`slipway rollback --without-bus`: order a rollback at the gateways themselves, with an administrator's key."""

import ssl
import uuid
from dataclasses import dataclass
from typing import Any

import httpx
import typer

from clients.cli.connection import StackAddress, read_credential
from clients.cli.names import target_of
from clients.cli.output import CommandError, Exit, show_json, show_line
from contracts.gateway_rollbacks import PATH, VALID, GatewayRollback, SignedGatewayRollback
from contracts.identities import Credential
from shared.provenance.administrators import sign_rollback
from shared.runtime.clock import Clock, SystemClock

_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Asked:
    """What one gateway answered.

    Attributes:
        url: The gateway.
        answer: Its JSON answer; empty if there is none.
        refusal: Why it did not do it; empty if it did.
    """

    url: str
    answer: dict[str, Any]
    refusal: str = ""


@dataclass(frozen=True)
class Ordered:
    """What is ordered at gateways.

    Attributes:
        model: What is rolled back.
        failed: The target that is to go; None for the active one.
        reason: Why.
        read_only_bus: The bus answers, and stores nothing.
    """

    model: str
    failed: str | None
    reason: str
    read_only_bus: bool = False


class Gateways:
    """Sends signed orders about one model to gateways.

    Args:
        ordered: what is ordered.
        credential: an administrator's.
        clock: says when orders are issued.
        verify: whose certificates gateways may have.
    """

    def __init__(
        self, ordered: Ordered, credential: Credential, clock: Clock, verify: ssl.SSLContext | bool = True
    ) -> None:
        self._ordered, self._verify = ordered, verify
        self._credential, self._clock = credential, clock
        self._signed: dict[tuple[str, int], SignedGatewayRollback] = {}

    def plan(self, url: str) -> Asked:
        """Return what a gateway serves, and what the rollback would change there."""
        return _send(url, self._sign(self._ordered.failed, None, plan_only=True), self._verify)

    def roll_back(self, url: str, planned: dict[str, Any]) -> Asked:
        """Perform what a gateway has planned; gateways with the same route get the same order, which counts once."""
        about = (str(planned["failed"]), int(planned["epoch_before"]))
        if about not in self._signed:
            self._signed[about] = self._sign(about[0], about[1], plan_only=False)
        return _send(url, self._signed[about], self._verify)

    def _sign(self, failed: str | None, epoch: int | None, *, plan_only: bool) -> SignedGatewayRollback:
        now = self._clock.now()
        order = GatewayRollback(
            order_id=uuid.uuid4().hex,
            administrator=self._credential.name,
            model=self._ordered.model,
            failed=target_of(self._ordered.model, failed) if failed is not None else None,
            epoch=epoch,
            reason=self._ordered.reason,
            read_only_bus=self._ordered.read_only_bus,
            issued_at=now,
            expires_at=now + VALID,
            plan_only=plan_only,
        )
        return sign_rollback(order, self._credential)


def _send(url: str, signed: SignedGatewayRollback, verify: ssl.SSLContext | bool) -> Asked:
    try:
        answer = httpx.post(
            f"{url.rstrip('/')}{PATH}",
            json=signed.model_dump(mode="json"),
            timeout=_TIMEOUT_S,
            verify=verify,
            trust_env=False,
        )
        content = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Asked(url, {}, f"the gateway does not answer: {error!r}")
    except ValueError:
        return Asked(url, {}, f"what answers is no gateway of this version (HTTP {answer.status_code})")
    if answer.is_success:
        return Asked(url, content)
    problem = content.get("error", {}) if isinstance(content, dict) else {}
    return Asked(url, {}, f"{problem.get('code')}: {problem.get('message')}")


def roll_back_without_bus(
    stack: StackAddress, ordered: Ordered, urls: list[str], *, dry_run: bool, as_json: bool
) -> None:
    """Order a rollback at each gateway and print what each serves; exit code 1 unless all did it.

    Raises:
        CommandError: No gateway or no credential of an administrator is known, or the authority cannot be read.
    """
    urls = urls or ([stack.gateway_url] if stack.gateway_url is not None else [])
    if not urls:
        raise CommandError("name each gateway with --gateway URL, or set SLIPWAY_GATEWAY_URL")
    gateways = Gateways(ordered, read_credential(stack), SystemClock(), stack.gateway_trust())
    plans = [gateways.plan(url) for url in urls]
    done = plans if dry_run else [plan if plan.refusal else gateways.roll_back(plan.url, plan.answer) for plan in plans]
    if as_json:
        show_json([{"gateway": each.url, "refused": each.refusal or None, **each.answer} for each in done])
    for each in done if not as_json else ():
        show_line(f"{each.url}: {_describe(each, dry_run=dry_run)}")
    if any(each.refusal for each in done):
        raise typer.Exit(int(Exit.FAILED))
    if not as_json and not dry_run:
        show_line("the gateways report it as soon as the bus is back; see `slipway routes` and `slipway events` then")


def _describe(asked: Asked, *, dry_run: bool) -> str:
    if asked.refusal:
        return f"not rolled back: {asked.refusal}"
    answer = asked.answer
    if dry_run:
        return f"serves {answer['active_before']}; without {answer['failed']} it would serve {answer['active']}"
    return f"serves {answer['active']} (epoch {answer['epoch']}); {answer['failed']} takes no more traffic"
