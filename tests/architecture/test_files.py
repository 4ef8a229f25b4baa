"""What the tree looks like: the closed list of shared/, file sizes, and nothing of the machine it was written on."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SHARED = {
    "": {"errors"},
    "messaging": {
        "bus",
        "bus_clock",
        "credentials",
        "delivery",
        "demand",
        "event_log",
        "event_traces",
        "events",
        "fact_metrics",
        "isolation",
        "orders",
        "patience",
        "provision",
        "publishing",
        "records",
        "refusals",
        "running",
        "topology",
        "transport",
    },
    "storage": {
        "blobs",
        "claims",
        "compare_and_set",
        "credentials",
        "held_out",
        "hub",
        "kept_records",
        "kv",
        "mlflow",
        "object_lock",
        "objects",
        "plain_files",
        "record_format",
        "sources",
        "text_sets",
        "transfer",
    },
    "provenance": {
        "administrators",
        "attestations",
        "audit_log",
        "envelopes",
        "event_archive",
        "lock_records",
        "login_links",
        "model_audit",
        "model_signatures",
        "target_check",
        "traffic_check",
        "verification",
        "version_history",
    },
    "runtime": {
        "clock",
        "exits",
        "failpoints",
        "jobs",
        "landlock",
        "launch",
        "metrics",
        "otlp",
        "process",
        "process_metrics",
        "program_imports",
        "progress",
        "sandbox",
        "scratch_dirs",
        "seccomp",
        "service",
        "service_metrics",
        "settings",
        "sweeper",
        "tasks",
        "team_list",
        "telemetry",
        "worker",
    },
    "serving": {
        "chat_template_worker",
        "chat_templates",
        "engine_answers",
        "engine_streams",
        "inference",
        "openai_stream",
        "tensors",
    },
}
"""A module enters when two services use it and it names a mechanism; change this list on purpose only."""
VAGUE = {"utils", "util", "helpers", "common", "misc", "core", "lib"}
LINES = 400


def committed(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def python_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_shared_is_a_closed_list():
    modules = [path.relative_to(ROOT / "shared") for path in python_files("shared") if path.stem != "__init__"]
    by_package = {
        package: {path.stem for path in modules if package == path.parent.as_posix()} for package in SHARED if package
    }
    top = {path.stem for path in modules if len(path.parts) == 1}
    assert {"": top, **by_package} == SHARED
    assert {path.parts[0] for path in modules if len(path.parts) > 1} == set(SHARED) - {""}


def test_no_code_of_ours_runs_between_fork_and_exec():
    """A process with threads, gRPC among them, may hold a lock there; `shared.runtime.launch` prepares a child after exec."""
    files = python_files(
        "contracts",
        "decisions",
        "shared",
        "services",
        "clients",
        "deploy",
        "tests",
        "benchmarks",
        "examples",
        "testbed",
    )
    calls = [
        (path, node) for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    with_preexec = [path for path, call in calls if any(keyword.arg == "preexec_fn" for keyword in call.keywords)]
    assert with_preexec == []


@pytest.mark.parametrize("path", python_files("shared"), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shared_module_says_what_it_is(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":")) or len(docstring.splitlines()) > 1
    assert len(docstring.splitlines()[0]) <= 120


def test_no_module_has_a_name_that_says_nothing():
    modules = python_files("contracts", "decisions", "shared", "services", "clients", "deploy", "tests", "testbed")
    assert [str(path.relative_to(ROOT)) for path in modules if path.stem in VAGUE or path.parent.name in VAGUE] == []


def test_no_folder_shadows_a_library():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not folders & {"triton", "torch", "vllm", "nats", "test"}


def test_files_stay_short():
    sizes = {
        path: len(path.read_text().splitlines())
        for path in python_files("contracts", "decisions", "shared", "services")
    }
    assert sizes
    assert {str(path.relative_to(ROOT)): size for path, size in sizes.items() if size > LINES} == {}


# Written in pieces, so that this file does not find itself.
SWITCHES = (
    r"fp32_" + r"precision\s*=",
    r"set_float32_" + r"matmul_precision",
    r"allow_" + r"tf32\s*=",
    r"set_num_" + r"threads\(",
    r"set_num_" + r"interop_threads",
    r"set_default_" + r"dtype",
    r"use_deterministic_" + r"algorithms",
    r"allow_\w+_" + r"reduced_precision_reduction\s*=",
)
"""Torch's switches that hold for a whole process: whatever computes there next is changed, unseen."""


@pytest.mark.parametrize("switch", SWITCHES)
def test_no_code_switches_how_its_whole_process_computes(switch):
    named = [path for path in committed("*.py", "*.md") if re.search(switch, path.read_text())]
    assert [str(path.relative_to(ROOT)) for path in named] == []


def test_no_file_holds_the_markers_of_a_merge_conflict():
    marker = re.compile("^(?:" + "<" * 7 + " |" + ">" * 7 + " )", re.MULTILINE)
    files = list(committed("*.py", "*.md", "*.toml", "*.yaml", "*.sh", "*.json", "Makefile"))
    assert [str(path.relative_to(ROOT)) for path in files if marker.search(path.read_text())] == []


OF_THIS_MACHINE = {
    "a folder of the machine": r"/(?:work|root|opt)" + r"/(?:main|shared|wheels|\.library|\.cache|\.mirror)",
    "a home folder": r"/(?:home|Users)" + r"/(?!me/)[a-z]",
    "a package registry": r"(?:py"
    r"pi\.org|python"
    r"hosted|artifact"
    r"ory|dev"
    r"pi|registry\.npm|--index"
    r"-url)",
    "a private address": r"(?<!==)\b(?:10\.(?!0\.0\.)\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))"
    r"\.\d+\.\d+\b(?!/)",  # a network is no address
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE" + r" KEY-----",
    "an access key": r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|hf_" + r"[A-Za-z0-9]{30,})",
    "a temporary folder": r"[\"' =]/tmp" + r"/",
}


@pytest.mark.parametrize("what", OF_THIS_MACHINE)
def test_no_committed_file_names(what):
    pattern = re.compile(OF_THIS_MACHINE[what])
    wrong = []
    for path in committed():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        wrong += [
            f"{path.relative_to(ROOT)}:{line}" for line, part in enumerate(text.splitlines(), 1) if pattern.search(part)
        ]
    assert wrong == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a folder of the machine", "cd /work" + "/main"),
        ("a package registry", "https://py" + "pi.org/simple"),
        ("a private address", "host 10.1" + ".2.3"),
        ("a temporary folder", "open('/tmp" + "/x')"),
        ("an access key", "hf_" + "a" * 34),
    ],
)
def test_the_search_finds_what_it_should(what, text):
    assert re.search(OF_THIS_MACHINE[what], text)


def test_secrets_and_outputs_are_not_committed():
    names = [str(path.relative_to(ROOT)) for path in committed()]
    assert [
        name for name in names if re.search(r"(^|/)(\.env|\.state|\.venv|__pycache__|node_modules)(/|$)", name)
    ] == []
    assert [name for name in names if name.endswith((".pem", ".key", ".pyc", ".safetensors", ".bin", ".gguf"))] == []
    assert [name for name in names if (ROOT / name).stat().st_size > 1024 * 1024] == []
