"""The S3 policy of each identity, from the declared table of access."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from contracts.identities import PROVISIONER, Identity, Role
from contracts.storage.access import (
    EVERYTHING,
    PROVISIONER_ACCESS,
    READS_OF_MODEL,
    READS_SHARED,
    ROLE_ACCESS,
    SERVICE_ACCESS,
    StoreAccess,
)

READ: Final = ("s3:GetObject", "s3:GetObjectVersion")
LIST: Final = ("s3:ListBucket", "s3:ListBucketVersions")
WRITE: Final = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
DELETE: Final = ("s3:DeleteObject", "s3:DeleteObjectVersion")
RETAIN: Final = ("s3:GetObjectRetention", "s3:PutObjectRetention")
SEE_LOCK: Final = ("s3:GetBucketObjectLockConfiguration",)
SEE_UPLOADS: Final = ("s3:ListBucketMultipartUploads",)
MANAGE: Final = (
    "s3:CreateBucket",
    "s3:GetBucketLocation",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketVersioning",
    "s3:ListBucket",
    "s3:ListBucketVersions",
    "s3:PutBucketObjectLockConfiguration",
    "s3:PutBucketVersioning",
)


def access_of(identity: Identity) -> StoreAccess | None:
    """Return the access of an identity to the store, or None."""
    if identity.name in SERVICE_ACCESS:
        return SERVICE_ACCESS[identity.name]
    if identity.name == PROVISIONER:
        return PROVISIONER_ACCESS
    granted = [_granted(role, identity) for role in identity.roles if role in ROLE_ACCESS]
    if not granted:
        return None
    return StoreAccess(
        reads=_together(access.reads for access in granted),
        gets=_together(access.gets for access in granted),
        writes=_together(access.writes for access in granted),
        deletes=_together(access.deletes for access in granted),
        retains=_together(access.retains for access in granted),
        sees_uploads=any(access.sees_uploads for access in granted),
        sees_lock=any(access.sees_lock for access in granted),
    )


def _granted(role: Role, identity: Identity) -> StoreAccess:
    access = ROLE_ACCESS[role]
    if identity.team is None or access.reads != EVERYTHING:
        return access
    own = tuple(prefix.format(model=model) for model in identity.models for prefix in READS_OF_MODEL)
    return replace(READS_SHARED, reads=(*READS_SHARED.reads, *own))


def _together(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    merged = dict.fromkeys(prefix for group in groups for prefix in group)
    return EVERYTHING if "" in merged else tuple(merged)


def policy(access: StoreAccess, bucket: str) -> dict[str, Any]:
    """Return the S3 policy for an access to a bucket."""
    whole = f"arn:aws:s3:::{bucket}"
    statements = [
        _allow(READ, _objects(whole, dict.fromkeys((*access.reads, *access.gets)))),
        _allow(WRITE, _objects(whole, access.writes)),
        _allow(DELETE, _objects(whole, access.deletes)),
        _allow(RETAIN, _objects(whole, access.retains)),
    ]
    if access.reads and not access.manages_bucket:
        # no condition for all keys: a request may name no prefix
        listed = {"Condition": {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in access.reads]}}}
        statements.append(_allow(LIST, [whole], {} if "" in access.reads else listed))
    if access.sees_uploads:
        statements.append(_allow(SEE_UPLOADS, [whole]))
    if access.sees_lock and not access.manages_bucket:
        statements.append(_allow(SEE_LOCK, [whole]))
    if access.manages_bucket:
        statements.append(_allow(MANAGE, [whole]))
    return {"Version": "2012-10-17", "Statement": [statement for statement in statements if statement["Resource"]]}


def _objects(bucket: str, prefixes: Iterable[str]) -> list[str]:
    return [f"{bucket}/{prefix}*" for prefix in prefixes]


def _allow(actions: Iterable[str], resources: list[str], more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resources, **(more or {})}
