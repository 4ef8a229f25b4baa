"""Object lock: retentions, and removal of single versions."""

from minio.commonconfig import COMPLIANCE, GOVERNANCE
from minio.error import S3Error
from minio.retention import Retention as S3Retention

from shared.storage.blobs import Store
from shared.storage.objects import Retention

_MODES = {"governance": GOVERNANCE, "compliance": COMPLIANCE}
_NO_RETENTION = ("NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError")
"""Codes for a version without retention: S3's own, and SeaweedFS's."""
NO_LOCK = (
    "The bucket {bucket} was made without object lock: who may delete in the store can delete the audit log. Switch on "
    "versioning and object lock of the bucket, or make a new one, as docs/operations.md says; until then everything "
    "goes on without."
)


class LockingStore(Store):
    """The store for commands that set retentions, or remove single versions."""

    def retain(self, key: str, version_id: str, retention: Retention) -> None:
        """Set the retention of an object version, or extend it.

        Raises:
            Permanent: `uri_not_allowed` after a refusal, for example of a shorter retention.
        """
        config = S3Retention(_MODES[retention.mode], retention.until)
        with self._translated(key):
            self._client.set_object_retention(
                bucket_name=self.bucket, object_name=key, config=config, version_id=version_id
            )

    def retention_of(self, key: str, version_id: str) -> Retention | None:
        """Return the retention of an object version; None without one."""
        with self._translated(key):
            try:
                config = self._client.get_object_retention(
                    bucket_name=self.bucket, object_name=key, version_id=version_id
                )
            except S3Error as error:
                if error.code in _NO_RETENTION:
                    return None
                raise
        if config is None:
            return None
        return Retention("compliance" if config.mode == COMPLIANCE else "governance", config.retain_until_date)

    def remove_version(self, key: str, version_id: str) -> None:
        """Remove a version or a delete marker; the store refuses retained versions."""
        with self._translated(key):
            self._client.remove_object(bucket_name=self.bucket, object_name=key, version_id=version_id)

    def latest_version(self, key: str) -> str | None:
        """Return the id of the latest version; None without one, or below a delete marker."""
        with self._translated(key):
            try:
                latest = self._client.stat_object(bucket_name=self.bucket, object_name=key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchVersion", "MethodNotAllowed"):
                    return None
                raise
        return latest.version_id or "null"
