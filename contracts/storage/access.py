"""The object store's keys: which prefixes there are, which of them each identity reads and writes, and credentials."""

import configparser
import re
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ..identities import Role
from ..vocabulary import IdentityName

BUCKET: Final = "slipway"
"""The bucket, unless an installation names another one."""
PROBE: Final = "probe/"
"""Objects by which a program proves that the store answers and honours conditional puts; they exist for a moment."""
DATA_FORMAT: Final = "data-format"
"""The object with the format of the data in this store."""
HOLDS: Final = "holds/"
"""Objects whose names and digests hold other objects: `holds/NAME.json` keeps what it names, in any form."""
PREFIXES: Final = (
    "attestations/benchmark/",
    "attestations/evaluate/",
    "attestations/merge/",
    "attestations/quantise/",
    "audit/",
    "bases/",
    "blobs/",
    "checkpoints/",
    HOLDS,
    "manifests/benchmark/",
    "manifests/drift/",
    "manifests/evaluation/",
    "manifests/folder/",
    "manifests/merged/",
    "manifests/variant/",
    PROBE,
    "references/",
    "sources/",
    "versions/",
)
"""All prefixes. A key under another one is refused to all but administrators."""


@dataclass(frozen=True)
class StoreAccess:
    """The access of an identity to the bucket, as prefixes of keys; `*` stands for any text.

    Attributes:
        reads: Keys that it reads and lists.
        gets: Keys that it reads but does not list: reading needs the key, which contains a digest.
        writes: Keys that it puts, both new objects and replacements.
        deletes: Keys that it deletes.
        sees_uploads: It lists multipart uploads that have not ended, of all keys.
        manages_bucket: It makes the bucket and changes its settings.
        retains: Keys whose retention it reads and extends; no identity may shorten or bypass a retention.
        sees_lock: It sees whether the bucket has object lock.
    """

    reads: tuple[str, ...] = ()
    gets: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    deletes: tuple[str, ...] = ()
    sees_uploads: bool = False
    manages_bucket: bool = False
    retains: tuple[str, ...] = ()
    sees_lock: bool = False


_CHECKPOINTS = ("checkpoints/", "sources/")
EVERYTHING: Final = ("",)

SERVICE_ACCESS: Final[dict[str, StoreAccess]] = {
    "registry": StoreAccess(
        reads=(
            "attestations/", "audit/", "bases/", "blobs/", *_CHECKPOINTS, "manifests/", PROBE,
            "versions/",
        ),
        writes=("audit/", "checkpoints/*/uploads/", "versions/"),
        deletes=("blobs/", "checkpoints/*/blobs/"),  # erased text, and uploads that are not what was announced
        sees_uploads=True,
        retains=("audit/",),
        sees_lock=True,
    ),
    "merger": StoreAccess(
        reads=(
            "attestations/merge/", "bases/", "blobs/", *_CHECKPOINTS, "manifests/folder/", "manifests/merged/",
            PROBE,
        ),
        writes=("attestations/merge/", "blobs/", "manifests/merged/", PROBE, "sources/"),
        deletes=(PROBE,),
        sees_uploads=True,
    ),
    "quantiser": StoreAccess(
        reads=(
            "attestations/quantise/", "blobs/", *_CHECKPOINTS, "manifests/folder/", "manifests/merged/",
            "manifests/variant/", PROBE,
        ),
        writes=("attestations/quantise/", "blobs/", "manifests/variant/", PROBE),
        deletes=(PROBE,),
        sees_uploads=True,
    ),
    "server-manager": StoreAccess(
        reads=("attestations/", "bases/", "blobs/", *_CHECKPOINTS, "manifests/", PROBE, "versions/"),
    ),
    "benchmarker": StoreAccess(
        reads=(
            "attestations/benchmark/", "bases/", "blobs/", *_CHECKPOINTS, "manifests/benchmark/",
            "manifests/folder/", "manifests/variant/", PROBE, "versions/",
        ),
        writes=("attestations/benchmark/", "manifests/benchmark/", PROBE, "versions/*/attestations/"),
        deletes=(PROBE,),
    ),
    "evaluator": StoreAccess(
        reads=(
            "attestations/evaluate/", "blobs/", *_CHECKPOINTS, "manifests/evaluation/", "manifests/folder/", PROBE,
            "versions/",
        ),
        writes=("attestations/evaluate/", "manifests/evaluation/", PROBE, "versions/*/attestations/"),
        deletes=(PROBE,),
    ),
    "rollback-controller": StoreAccess(
        reads=(PROBE, "versions/"),
        writes=("versions/*/attestations/", "versions/*/rehearsals/"),
    ),
    "monitor": StoreAccess(
        reads=("manifests/drift/", PROBE, "references/", "blobs/", "versions/"),
        writes=("blobs/", "manifests/drift/", "references/"),
    ),
    "mirror": StoreAccess(
        reads=(PROBE, "versions/"),
        gets=(  # whose names are in manifests and attestations
            "blobs/", *_CHECKPOINTS, "manifests/benchmark/", "manifests/evaluation/", "manifests/merged/",
        ),
    ),
    "console": StoreAccess(
        reads=("attestations/", "bases/", *_CHECKPOINTS, "manifests/", PROBE, "versions/"),
        gets=("blobs/",),
    ),
}  # fmt: skip
"""Services that are not here do not use the store, and have no credential for it."""

PROVISIONER_ACCESS: Final = StoreAccess(
    reads=(PROBE, DATA_FORMAT), writes=(PROBE, DATA_FORMAT), deletes=(PROBE,), manages_bucket=True, sees_lock=True
)
ROLE_ACCESS: Final[dict[Role, StoreAccess]] = {
    "operator": StoreAccess(reads=EVERYTHING, sees_lock=True),
    "approver": StoreAccess(reads=EVERYTHING, sees_lock=True),
    "viewer": StoreAccess(reads=EVERYTHING, sees_lock=True),
    "administrator": StoreAccess(
        reads=EVERYTHING, writes=EVERYTHING, deletes=EVERYTHING, sees_uploads=True, sees_lock=True, retains=EVERYTHING
    ),
}  # fmt: skip
"""What each role may do. A publisher has no key: it uploads by URLs that the registry signs (ADR 0026).

An administrator sets retentions, which can only be extended: a restore puts objects under lock again (ADR 0028).
"""
_DIGEST: Final = "?" * 64
READS_SHARED: Final = StoreAccess(
    reads=("bases/", PROBE, f"attestations/*/{_DIGEST}/"), gets=("attestations/", "blobs/", "manifests/", "sources/")
)
"""What a member of a team reads with any reading role, beside what is of its team's models.

Artifacts are stored by their digest and shared by teams, so the store cannot tell whose they are. `?` stands for one
character: who knows the digest of an artifact lists its attestations.
"""
READS_OF_MODEL: Final = ("checkpoints/{model}/", "references/{model}/", "versions/{model}/")
"""What is of one model."""


class StoreCredential(BaseModel):
    """An identity's key of the store, as its file holds it: in the form of the AWS tools, with the identity's name."""

    model_config = ConfigDict(frozen=True)

    name: IdentityName
    access_key: str = Field(pattern=r"^[A-Za-z0-9._-]{3,128}$")
    secret_key: SecretStr

    def text(self) -> str:
        """Return the content of the credential's file, in the format of the AWS tools."""
        secret = self.secret_key.get_secret_value()
        keys = f"aws_access_key_id = {self.access_key}\naws_secret_access_key = {secret}\n"
        return f"# Slipway identity {self.name}\n[default]\n{keys}"

    @classmethod
    def from_text(cls, text: str) -> "StoreCredential":
        """Return the credential in a file; its name is `other` if another program wrote it.

        Raises:
            ValueError: The text is not the content of such a file.
        """
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(text)
            keys = parser["default"]
            name = re.match(r"# Slipway identity (\S+)", text)
            return cls(
                name=name[1] if name else "other",
                access_key=keys["aws_access_key_id"],
                secret_key=SecretStr(keys["aws_secret_access_key"]),
            )
        except (configparser.Error, KeyError, ValueError):
            raise ValueError(
                "The file holds no credential of the store: use credentials/NAME.s3 of `slipway keys`."
            ) from None  # the cause would show parts of a secret
