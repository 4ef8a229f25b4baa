"""What signing, attesting and checking cost in a release, beside the times of its steps.

    .venv/bin/python benchmarks/bench_provenance.py

Each operation runs on a real S3 server, on a version with two variants as the services leave it (no weights: no blob is
read or hashed again for any of it). The steps' times are those of the demo, in docs/benchmarks.md.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from contracts.facts import RehearsalCompleted
from contracts.manifests import ApprovalRecord, RehearsalRecord
from contracts.provenance.steps import RequiredAttestations
from contracts.vocabulary import Deployable, Target, digest_of
from services.registry.adapters.store import StoredArtifacts
from services.rollback_controller.adapters.provenance import StoredProofs
from services.server_manager.adapters.load_check import LoadCheck
from shared.provenance.attestations import AttestedCommits
from shared.provenance.envelopes import Subjects
from shared.storage.blobs import Store
from testbed import factories
from testbed.attesters import attester, trust
from testbed.released import release
from testbed.servers import NatsServer, S3Server, connection, running

TIMES = 30


def measure(what: str, work: Callable[[int], object]) -> float:
    """Print and return the median time of an operation, in milliseconds."""
    taken_ms = []
    for number in range(TIMES):
        begun = time.perf_counter()
        work(number)
        taken_ms.append(1000 * (time.perf_counter() - begun))
    median = statistics.median(taken_ms)
    worst = sorted(taken_ms)[int(0.95 * TIMES)]
    print(f"| {what} | {median:.1f} | {worst:.1f} |")
    return median


def main() -> None:
    """Measure each operation, and the sum of those in a release with two variants."""
    with tempfile.TemporaryDirectory() as name, running(S3Server(Path(name) / "s3")) as s3:
        folder = Path(name)
        with running(NatsServer(folder / "nats")) as nats:
            run(Store(connection(nats, s3, folder)), folder)


def run(store: Store, folder: Path) -> None:
    """Measure on a store, with keys in a folder."""
    steps = RequiredAttestations(steps=("merge", "quantise", "benchmark", "rehearse", "approve"))
    versions = [release(store, folder, model=f"bench-{number}", attestations=steps) for number in range(3)]
    first = versions[0]
    registered = next(each for each in first.manifest.variants if each.variant == "int8")
    target = Target(model=first.manifest.model, version=2, variant="int8")
    target_to_load = Deployable(target=target, manifest=registered.manifest, weights_bytes=1)
    print("| operation, ms | p50 | p95 |\n|---|---|---|")
    signer = attester(folder, "merger")
    commits = AttestedCommits(store, signer, "merge", trust(folder))
    digests = [digest_of(str(number).encode()) for number in range(TIMES)]
    measure("sign a statement (no store)", lambda n: signer.sign("merge", Subjects(named={"x": digests[n]})))
    attest = measure("attest a manifest", lambda n: commits.attest(digests[n], Subjects(named={"x": digests[n]})))
    registry = StoredArtifacts(store, attester(folder, "registry"), trust(folder))
    proofs = StoredProofs(lambda: (store, attester(folder, "rollback-controller"), trust(folder)))

    def approve(number: int) -> None:
        record = ApprovalRecord(
            target=target.model_copy(update={"model": f"bench-{number % 3}"}),
            manifest_digest=registered.manifest.digest,
            release_id="r",
            approved_by="/slipway/user/ana",
            order_id=f"o-{number}",
            approved_at=factories.after(0),
        )
        asyncio.run(registry.put_approval(record))

    def rehearse(number: int) -> None:
        completed = factories.fact(RehearsalCompleted, reason=str(number), verdict="pass")
        about = target.model_copy(update={"model": f"bench-{number % 3}"})
        record = RehearsalRecord(target=about, manifest_digest=registered.manifest.digest, completed=completed)
        asyncio.run(proofs.attest_rehearsal(record))

    approval = measure("record and attest an approval (chain of 5 to 15)", approve)
    rehearsal = measure("record and attest a rehearsal (chain of 15 to 25)", rehearse)
    check = LoadCheck(store, trust(folder), folder / "repository")
    load = measure("check before a load", lambda _: check.verify(target_to_load))
    traffic = measure("check before traffic (chain of 24)", lambda _: check.assess_traffic(target_to_load))
    assert check.assess_traffic(target_to_load) is None
    whole = 3 * attest + 2 * attest + approval + rehearsal + 3 * load + 2 * traffic
    print(
        f"\na release (merge, 2 variants, 2 benchmarks, rehearsal, approval, 3 loads, 2 traffic orders): {whole:.0f} ms"
    )


if __name__ == "__main__":
    main()
