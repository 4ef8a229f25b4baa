"""Identities on the bus: services, the provisioner, and users (people and programs) with roles."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from . import facts as f
from .facts import Fact, WorkProgressed
from .services import SERVICES
from .storage.uploads import UPLOADS
from .vocabulary import Contract, IdentityName, ModelName

Role = Literal["publisher", "operator", "approver", "viewer", "administrator"]
ROLES: tuple[Role, ...] = get_args(Role)
PROVISIONER: Final = "provisioner"
"""The identity that creates streams, consumers and buckets."""
RESERVED: Final = frozenset({*SERVICES, PROVISIONER, "mirror", "agent"})
"""Names that users may not have."""
_REFUSED: Final = re.compile(
    r"permissions violation for (?P<action>publish|subscription) to \"(?P<subject>[^\"]+)\"", re.IGNORECASE
)
_READING: Final = ("$js.api.", WorkProgressed.TYPE)
"""Prefixes of the subjects that readers use, in lower case as clients report them."""

PUBLISHED_BY: Final[dict[Role, tuple[type[Fact], ...]]] = {
    "publisher": (f.CheckpointReady,),
    "operator": (
        f.ReleaseCancelled,
        f.ReleaseHeld,
        f.RollbackOrdered,
        f.DrillOrdered,
        f.SuspensionDecided,
    ),
    "approver": (f.ApprovalGranted, f.ApprovalDenied, f.CanaryAdvanced),
    "viewer": (),
    "administrator": (),
}
"""Facts that each role may publish under its own name; administrators may publish all."""

PublicKey = Annotated[str, StringConstraints(pattern=r"^U[A-Z2-7]{55}$")]


class Identity(Contract):
    """A person or a program that may connect to the bus.

    Attributes:
        name: A service, `provisioner`, or a user.
        roles: Roles of a user; empty for services and the provisioner.
        models: Models that a publisher may announce checkpoints of; empty for all, or all of its team.
        team: The identity may act on the models of this team only; None for all models.
        public_keys: Accepted keys, newest last; two during a replacement.
    """

    name: IdentityName
    roles: tuple[Role, ...] = ()
    models: tuple[ModelName, ...] = ()
    team: IdentityName | None = None
    public_keys: Annotated[tuple[PublicKey, ...], Field(min_length=1)]


class Credential(BaseModel):
    """The secret of an identity. Its file has a comment with the name, then the seed of the nkey, as NATS expects."""

    model_config = ConfigDict(frozen=True)

    name: IdentityName
    seed: SecretStr

    def text(self) -> str:
        """Return the content of the file."""
        return f"# Slipway identity {self.name}\n{self.seed.get_secret_value()}\n"

    @classmethod
    def from_text(cls, text: str) -> Credential:
        """Return the credential in a file.

        Raises:
            ValueError: The text is not the content of such a file.
        """
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = lines[0].removeprefix("# Slipway identity ") if lines else ""
        if len(lines) != 2 or first == lines[0] or not lines[1].startswith("SU"):
            raise ValueError("The file holds no credential of Slipway: make one with `slipway keys add`.")
        return cls(name=first, seed=SecretStr(lines[1]))


_RENEWED = "run `slipway keys init`, and let the bus read them (SIGHUP)"


def describe_refusal(error: str, name: str) -> str | None:
    """Return a sentence on the permission that the bus refused, with advice; None if the error is no refusal.

    Args:
        error: The server's error, as NATS clients report it.
        name: The identity that is connected.
    """
    match = _REFUSED.search(error)
    if match is None:
        return None
    what = "publish to" if match["action"].lower() == "publish" else "read"
    return f"the bus does not permit {name} to {what} {match['subject']}: {_how_granted(name, match['subject'])}"


def _how_granted(name: str, subject: str) -> str:
    if name in SERVICES or name == PROVISIONER:
        return f"its permissions are those of another version; {_RENEWED}"
    if subject == "$sys.req.user.info":
        return (
            "it takes the role viewer, operator or approver, which an administrator of the keys gives with "
            f"`slipway keys add`; if it has one, its permissions are those of another version: {_RENEWED}"
        )
    if subject.startswith("slipway.") and not subject.endswith((f".{name}", f".{name}.>", "*")):
        return f"a subject ends with the name of the identity that publishes on it, which is {name}"
    for role, facts in PUBLISHED_BY.items():
        for type_ in (*(fact.TYPE for fact in facts), *((UPLOADS,) if role == "publisher" else ())):
            if subject.startswith(f"{type_}."):
                model = subject.removeprefix(f"{type_}.").rpartition(".")[0]
                limit = f" of {model}" if role == "publisher" else ""
                return (
                    f"it takes the role {role}{limit}, which an administrator of the keys gives with `slipway keys add`"
                )
    roles = "viewer, operator or approver" if subject.startswith(_READING) else "administrator"
    whose = "; members of a team read its models only" if subject.startswith(_READING) else ""
    return f"it takes the role {roles}, which an administrator of the keys gives with `slipway keys add`{whose}"


def inbox_prefix(name: str) -> str:
    """Return the first token of an identity's reply subjects."""
    return f"_INBOX_{name}"
