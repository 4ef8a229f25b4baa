"""Prefixes of the object store, the access of each identity to them, and credentials."""

import configparser
import re
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from ..identities import Role
from ..vocabulary import IdentityName

BUCKET: Final = "slipway"
"""Default name of the bucket."""
PROBE: Final = "probe/"
"""Prefix of short-lived objects that test the store and its conditional puts."""
DATA_FORMAT: Final = "data-format"
"""Key of the object with the store's data format."""
HOLDS: Final = "holds/"
"""Prefix of holds: `slipway gc` keeps the objects that `holds/NAME.json` names."""
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
"""All prefixes; only administrators may use others."""


@dataclass(frozen=True)
class StoreAccess:
    """The access of an identity to the bucket, as prefixes of keys; `*` stands for any text.

    Attributes:
        reads: Read and list.
        gets: Read without list; the keys contain digests.
        writes: Put, including replacements.
        deletes: Delete.
        sees_uploads: Whether it may list unfinished multipart uploads, of all keys.
        manages_bucket: Whether it may create the bucket and change its settings.
        retains: Read and extend the retention; no identity may shorten or bypass it.
        sees_lock: Whether it may read the object lock configuration.
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
"""Access by service; other services have no credential of the store."""

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
"""Access by role. Publishers have no key: they upload by URLs that the registry signs (ADR 0026).

Administrators may extend retentions: a restore locks objects again (ADR 0028).
"""
_DIGEST: Final = "?" * 64
READS_SHARED: Final = StoreAccess(
    reads=("bases/", PROBE, f"attestations/*/{_DIGEST}/"), gets=("attestations/", "blobs/", "manifests/", "sources/")
)
"""Access of team members with a reading role, besides `READS_OF_MODEL` of their models.

Artifacts are stored by digest and shared by teams. `?` stands for one character: listing attestations requires the
digest of the artifact.
"""
READS_OF_MODEL: Final = ("checkpoints/{model}/", "references/{model}/", "versions/{model}/")
"""Prefixes of one model."""


class StoreCredential(BaseModel):
    """An identity's access key of the store; its file has the format of the AWS tools, with the identity's name."""

    model_config = ConfigDict(frozen=True)

    name: IdentityName
    access_key: str = Field(pattern=r"^[A-Za-z0-9._-]{3,128}$")
    secret_key: SecretStr

    def text(self) -> str:
        """Return the content of the file."""
        secret = self.secret_key.get_secret_value()
        keys = f"aws_access_key_id = {self.access_key}\naws_secret_access_key = {secret}\n"
        return f"# Slipway identity {self.name}\n[default]\n{keys}"

    @classmethod
    def from_text(cls, text: str) -> "StoreCredential":
        """Parse the content of a file; the name is `other` if the file has none.

        Raises:
            ValueError: The text has another form.
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
