"""What each identity may do in the store, tried on a real server: what it needs works, all else is refused.

What is expected follows from the table of prefixes, not from the policies that are tested.
"""

import contextlib
import hashlib
import http.client
import io
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from urllib.parse import SplitResult

import pytest
import urllib3
from minio import Minio
from minio.commonconfig import GOVERNANCE
from minio.credentials import Credentials
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.retention import Retention
from minio.signer import sign_v4_s3

from contracts.identities import PROVISIONER, Identity
from contracts.storage.access import DATA_FORMAT, PREFIXES, SERVICE_ACCESS
from deploy.identity.key_folder import KeyFolder
from deploy.identity.store_permissions import access_of
from shared.errors import Permanent, Transient
from shared.storage.blobs import Store
from shared.storage.credentials import read_credential, trusted
from testbed.servers import S3Server, wait_until

NOW = datetime.now(UTC)
USERS = {
    "oscar": (["operator"], ()),
    "anna": (["approver"], ()),
    "victor": (["viewer"], ()),
    "adam": (["administrator"], ()),
}
MEMBERS = {"vera": (["viewer"], ()), "sam": (["operator", "publisher"], ())}
"""Members of the team that owns the model `support-bot`."""
UNKNOWN = "not-in-the-table/"
PLACES = (
    *PREFIXES,
    "checkpoints/support-bot/",
    "checkpoints/other/",
    "checkpoints/m/1/uploads/",
    "versions/m/1/attestations/",
    "versions/m/1/rehearsals/",
    "references/support-bot/",
    "versions/support-bot/2/",
    f"attestations/merge/{64 * 'a'}/",
    UNKNOWN,
)
NAMES = (*SERVICE_ACCESS, PROVISIONER, *USERS, *MEMBERS)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    folder.prepare(["127.0.0.1", "localhost"], NOW)
    for name, (roles, models) in USERS.items():
        folder.add(name, roles, models)
    folder.set_team("support", ["support-bot"])
    for name, (roles, models) in MEMBERS.items():
        folder.add(name, roles, models, "support")
    folder.add("admin", ["administrator"])
    folder.add("pia", ["publisher"], ["support-bot"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, keys):
    server = S3Server(tmp_path_factory.mktemp("s3"), keys)
    server.start()
    root = client(server, "adam")
    for place in (*PLACES, DATA_FORMAT):
        for name in ("kept", "other"):
            put(root, f"{place}{name}")
    yield server
    server.discard()


def client(server, name, credential=None):
    key = credential or read_credential(server.keys.store.credential(name))
    pool = urllib3.PoolManager(ssl_context=trusted(server.keys.authority), retries=False, timeout=10)
    return Minio(
        f"127.0.0.1:{server.port}",
        region="us-east-1",
        access_key=key.access_key,
        secret_key=key.secret_key.get_secret_value(),
        http_client=pool,
    )


def put(client, key):
    client.put_object(bucket_name="slipway", object_name=key, data=io.BytesIO(b"text"), length=4)


def permitted(call):
    """Return whether the server does what is asked, and not whether it finds it."""
    try:
        call()
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
        return False
    return True


def expected(name, verb, place):
    if name in MEMBERS:
        return expected_of_member(name, verb, place)
    roles, models = USERS.get(name, ((), ()))
    access = access_of(Identity(name=name, roles=tuple(roles), models=models, public_keys=("U" + "A" * 55,)))
    if verb == "list" and access.manages_bucket:
        return True
    if verb == "see lock":
        return access.sees_lock
    if verb == "put under lock":
        return expected(name, "put", place) and expected(name, "retain", place)
    prefixes = {
        "get": (*access.reads, *access.gets),
        "list": access.reads,
        "put": access.writes,
        "delete": access.deletes,
        "retain": access.retains,
        "see retention": access.retains,
        "unmask": access.deletes,
    }[verb]
    return any(place.startswith(prefix.replace("*", "m/1")) for prefix in prefixes)


def expected_of_member(name, verb, place):
    """What is of its team's model, base models, and by its whole name what is stored by its digest."""
    own = tuple(f"{kind}/support-bot/" for kind in ("checkpoints", "references", "versions"))
    listed = place.startswith((*own, "bases/", "probe/")) or "a" * 64 in place
    by_name = place.startswith(("attestations/", "blobs/", "manifests/", "sources/"))
    return {"list": listed, "get": listed or by_name}.get(verb, False)


def attempts(client, place):
    """Return a call for each verb, the one that changes nothing for others last."""
    key = f"{place}kept"
    return {
        "get": lambda: client.get_object(bucket_name="slipway", object_name=key).close(),
        "list": lambda: list(client.list_objects(bucket_name="slipway", prefix=place, recursive=True)),
        "put": lambda: put(client, f"{place}new"),
        "delete": lambda: client.remove_object(bucket_name="slipway", object_name=f"{place}gone"),
    }


def test_a_publisher_has_no_key_of_the_store(keys):
    assert not keys.store.credential("pia").exists()
    assert "pia" not in keys.store.server_config.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_each_identity_may_do_what_it_needs_and_nothing_else(server, name):
    """Every prefix, with every verb: a prefix or an identity that is new is tried without a change here."""
    own = client(server, name)
    tried = {(place, verb): permitted(call) for place in PLACES for verb, call in attempts(own, place).items()}
    required = {(place, verb): expected(name, verb, place) for place, verb in tried}
    assert tried == required
    multipart = {
        place: permitted(lambda place=place: own._create_multipart_upload("slipway", f"{place}big", {}))
        for place in PLACES
    }
    assert multipart == {place: required[place, "put"] for place in PLACES}


END = NOW + timedelta(days=1)


@pytest.fixture(scope="module")
def retained(server):
    """Return the version of an object below each prefix that the registry keeps until END."""
    root, registry, kept = client(server, "adam"), client(server, "registry"), {}
    for place in PLACES:
        put(root, f"{place}retained")
        if expected("registry", "retain", place):
            kept[place] = root.stat_object(bucket_name="slipway", object_name=f"{place}retained").version_id
            keep(registry, f"{place}retained", kept[place])
    return kept


def keep(client, key, version):
    retention = Retention(GOVERNANCE, END)
    client.set_object_retention(bucket_name="slipway", object_name=key, config=retention, version_id=version)


def reads_version(client, key, version):
    client.get_object(bucket_name="slipway", object_name=key, version_id=version).close()


def lists_versions(client, place):
    list(client.list_objects(bucket_name="slipway", prefix=place, recursive=True, include_version=True))


@pytest.mark.parametrize("name", NAMES)
def test_versions_and_retentions_are_for_who_needs_them(server, retained, name):
    own = client(server, name)
    for place, version in retained.items():
        key, gone = f"{place}retained", f"{place}gone"
        lock = f"x-amz-object-lock-retain-until-date={END:%Y-%m-%dT%H:%M:%SZ}".split("=")
        under_lock = {"x-amz-object-lock-mode": "GOVERNANCE", lock[0]: lock[1]}
        tried = {
            "get": permitted(partial(reads_version, own, key, version)),
            "list": permitted(partial(lists_versions, own, place)),
            "retain": permitted(partial(keep, own, key, version)),
            "see retention": permitted(partial(retention_of, own, key, version)),
            "unmask": permitted(partial(own.remove_object, "slipway", gone, version_id="0" * 32)),
            "put under lock": raw(server, name, "PUT", f"/slipway/{place}under-lock", headers=under_lock)[0] == 200,
        }
        assert tried == {verb: expected(name, verb, place) for verb in tried}, place
        for headers in ({}, {"x-amz-bypass-governance-retention": "true"}):
            status, _ = raw(server, name, "DELETE", f"/slipway/{key}", f"versionId={version}", headers=headers)
            assert status == 403, "no identity removes what is retained"
        reads_version(client(server, "adam"), key, version)
    assert permitted(partial(own.get_object_lock_config, "slipway")) == expected(name, "see lock", "")


def test_a_clock_that_jumps_locks_nothing_for_longer(server, retained):
    """A retention until a time far ahead could not be taken back: the store refuses who signs by another time."""
    until = f"{END + timedelta(days=4000):%Y-%m-%dT%H:%M:%SZ}"
    headers = {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": until}
    for ahead in (timedelta(minutes=20), timedelta(days=4000), -timedelta(days=400)):
        status, text = raw(server, "registry", "PUT", "/slipway/versions/ahead", headers=headers, ahead=ahead)
        assert (status, "RequestTimeTooSkewed" in text) == (403, True)


def retention_of(client, key, version):
    client.get_object_retention(bucket_name="slipway", object_name=key, version_id=version)


def raw(server, name, method, path, query="", *, headers=(), body=b"", ahead=timedelta()):
    """Return the status and the text of a signed request whose path no client normalises, by a clock that is ahead."""
    key = read_credential(server.keys.store.credential(name))
    digest, now = hashlib.sha256(body).hexdigest(), datetime.now(UTC) + ahead
    host = f"127.0.0.1:{server.port}"
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    signed = sign_v4_s3(
        method=method,
        url=SplitResult("https", host, path, query, ""),
        region="us-east-1",
        headers={"Host": host, "x-amz-content-sha256": digest, "x-amz-date": stamp, **dict(headers)},
        credentials=Credentials(key.access_key, key.secret_key.get_secret_value()),
        content_sha256=digest,
        date=now,
    )
    opened = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=10, context=trusted(server.keys.authority))
    with contextlib.closing(opened) as connection:
        connection.putrequest(method, f"{path}?{query}" if query else path, skip_host=True, skip_accept_encoding=True)
        for header, value in {**signed, "Content-Length": str(len(body))}.items():
            connection.putheader(header, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read().decode()


OUTSIDE = (
    "references/support-bot/../../versions/kept",
    "references/support-bot/%2e%2e/%2e%2e/versions/kept",
    "references/support-bot/..%2F..%2Fversions/kept",
    "references/support-bot//../../versions/kept",
    "references/support-bot/\\..\\..\\versions\\kept",
    "references2/kept",
)


@pytest.mark.parametrize("key", OUTSIDE)
def test_no_spelling_of_a_key_leads_out_of_a_prefix(server, key):
    for method in ("GET", "PUT", "DELETE"):
        status, _ = raw(server, "monitor", method, f"/slipway/{key}", body=b"x" if method == "PUT" else b"")
        assert status in (400, 403)
    for header in ("x-amz-copy-source", "x-amz-rename-source"):
        query = "renameObject=" if "rename" in header else ""
        path = "/slipway/references/support-bot/taken"
        status, _ = raw(server, "monitor", "PUT", path, query, headers={header: f"/slipway/{key}"})
        assert status in (400, 403)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "list-type=2",
        "delimiter=%2F",
        "prefix=checkpoints%2Fsupport-bot",
        "list-type=2&prefix=versions%2F&prefix=probe%2F",
        "list-type=2&prefix=probe%2F&prefix=versions%2F",
        "list-type=2&prefix=checkpoints%2Fsupport-bot%2F..%2F..%2Fversions%2F",
        "versions=&prefix=versions%2F",
        "uploads=",
        *(f"{what}=" for what in ("acl", "cors", "lifecycle", "object-lock", "policy", "tagging", "versioning")),
    ],
)
def test_a_member_learns_nothing_about_other_prefixes_and_the_bucket(server, query):
    status, text = raw(server, "vera", "GET", "/slipway", query)
    assert status == 403 or "versions/kept" not in text


def test_nobody_changes_the_bucket_or_makes_an_object_public(server):
    everyone = '{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::slipway/*"}]}'
    for name in ("merger", "adam"):
        for what in ("policy", "acl", "cors", "lifecycle", "tagging", "versioning", "object-lock"):
            assert raw(server, name, "PUT", "/slipway", f"{what}=", body=everyone.encode())[0] == 403
        public = {"x-amz-acl": "public-read"}
        assert raw(server, name, "PUT", "/slipway/blobs/kept", "acl=", headers=public)[0] == 403
        assert raw(server, name, "PUT", "/another")[0] == raw(server, name, "DELETE", "/slipway")[0] == 403
        assert raw(server, name, "POST", "/", body=b"Action=CreateUser&UserName=eve&Version=2010-05-08")[0] == 405


def test_many_deletes_in_one_request_are_judged_one_by_one(server):
    own = client(server, "merger")
    put(client(server, "adam"), "probe/often")
    keys = [DeleteObject("versions/kept"), DeleteObject("probe/often")]
    refused = list(own.remove_objects(bucket_name="slipway", delete_object_list=keys))
    assert [(error.name, error.code) for error in refused] == [("versions/kept", "AccessDenied")]


def test_a_refusal_names_the_identity_the_object_and_how_it_is_granted(server):
    with pytest.raises(Permanent, match=r"does not permit merger .*versions/m/1/manifest.json.*slipway keys") as caught:
        Store(server.settings("merger")).create("versions/m/1/manifest.json", b"{}")
    assert caught.value.code == "uri_not_allowed"


def test_keys_are_replaced_with_overlap_and_withdrawn_without_a_restart(server, keys):
    """A program whose file was replaced goes on with the new key; one that still has the old one is refused."""
    keys.add("temp", ["viewer"])
    server.reload()
    first = read_credential(keys.store.credential("temp"))
    running = Store(server.settings("temp"))
    wait_until(lambda: works(running), what="the new identity")
    keys.rotate("temp")
    server.reload()
    second = read_credential(keys.store.credential("temp"))
    wait_until(lambda: code_of(server, second) == "", what="the second key")
    assert code_of(server, first) == ""
    assert read_credential(keys.store.former_credential("temp")) == first
    keys.retire("temp")
    server.reload()
    wait_until(lambda: code_of(server, first) == "InvalidAccessKeyId", what="the end of the first key")
    assert running.reachable()
    keys.remove("temp")
    server.reload()
    wait_until(lambda: code_of(server, second) == "InvalidAccessKeyId", what="the end of the identity")
    with pytest.raises(Transient, match="InvalidAccessKeyId"):
        running.find("blobs/kept")


def works(store):
    try:
        return store.reachable()
    except Transient:
        return False


def code_of(server, credential):
    try:
        client(server, "", credential).get_object(bucket_name="slipway", object_name="blobs/kept").close()
    except S3Error as error:
        return error.code
    return ""


def test_only_tls_that_the_installation_vouches_for_is_spoken(server, tmp_path):
    other = KeyFolder(tmp_path / "keys")
    other.prepare(["127.0.0.1"], NOW)
    settings = server.settings("merger").model_copy(update={"s3_ca": other.authority})
    with pytest.raises(Transient, match="CERTIFICATE_VERIFY_FAILED"):
        Store(settings).find("blobs/kept")
    plain = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(plain):
        plain.request("GET", "/slipway/blobs/kept")
        assert plain.getresponse().status == 400


PATHS = (
    "/buckets/slipway/blobs/kept",
    "/buckets/?pretty=y",
    "/etc/iam/identity.json",
    "/dir/assign",
    "/dir/lookup?volumeId=1",
    "/dir/status",
    "/col/delete?collection=slipway",
    "/vol/grow?count=1",
    "/submit",
    "/1,01",
    "/admin/",
    "/api/users",
)


def test_the_inner_ports_of_the_store_give_nothing_to_who_reaches_them(server):
    for name, port in server.ports.items():
        if name.endswith(".grpc"):
            assert ends_without_certificate(port), name
        elif name != "s3.port":
            for path in PATHS:
                opened = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                with contextlib.closing(opened) as connection:
                    connection.request("GET", path)
                    assert connection.getresponse().status in (401, 404), f"{name}{path}"
    assert permitted(lambda: client(server, "adam").get_object(bucket_name="slipway", object_name="blobs/kept").close())


def ends_without_certificate(port):
    """Return whether a gRPC server ends a connection whose client shows no certificate of the store."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.set_alpn_protocols(["h2"])
    opening = socket.create_connection(("127.0.0.1", port), timeout=10)
    try:
        with opening, tls.wrap_socket(opening) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
            return connection.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True
