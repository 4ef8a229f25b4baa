"""Rules of the source text: what no file may hold, and what the parts of the architecture look like."""

import ast
import importlib
import re
from collections.abc import Iterator

from testbed.lint.tree import ROOT, committed, files, problem, text, tree

MOST_LINES = 400
DELIVERED = ("contracts/", "decisions/", "shared/", "services/", "clients/", "deploy/")
PROCESS_WIDE = "a switch of torch for its whole process changes whatever computes there next"
# Brackets around a letter keep a pattern from matching itself.
FORBIDDEN = (
    ("", r"^(?:<{7} |>{7} )", "marker of a merge conflict"),
    ("", r"/(?:[w]ork|[r]oot|[o]pt)/(?:main|shared|wheels|\.library|\.cache|\.mirror)", "folder of one machine"),
    ("", r"/(?:[h]ome|[U]sers)/(?!me/)[a-z]", "home folder of one machine"),
    ("", r"[p]ypi\.org|[p]ythonhosted|[a]rtifactory|[d]evpi|[r]egistry\.npm|--[i]ndex-url", "package registry"),
    ("", r"(?<!==)\b(?:10\.(?!0\.0\.)\d+|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d+\.\d+\b(?!/)", "private address"),
    ("", r"-----BEGIN [A-Z ]*PRIVATE [K]EY-----", "private key"),
    ("", r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,})", "access key"),
    ("", r"[\"' =]/[t]mp/", "temporary folder of one machine"),
    (r"\.py$|\.md$", r"(?:fp32_[p]recision|allow_[t]f32|[r]educed_precision_reduction)\s*=", PROCESS_WIDE),
    (
        r"\.py$|\.md$",
        r"set_num_(?:[i]nterop_)?[t]hreads\(|set_default_[d]type|use_deterministic_[a]lgorithms",
        PROCESS_WIDE,
    ),
    (
        rf"^(?!CHANGELOG)(?:.*\.md$|(?:{'|'.join(DELIVERED)}|benchmarks/)(?!.*/prompts\.py).*\.py$)",
        r"(?i)(?<![a-z])(?:nobody|somebody|whoever|roads?|doors?|houses?|shel(?:f|ves)|fates?)(?![a-z])(?![^`\n]*`)",
        "a metaphor, or a person where an identity, a service or an operator is meant (CONTRIBUTING.md)",
    ),
    (
        r"^tests/.*\.py$",
        r"^ *(?:from|import) tests\.(?:[\w.]+\.|[\w.]+ import \(?\s*)[t]est_\w+",
        "what two test files use is in tests/kit, or in a module beside them that is no test file",
    ),
    (r"\.py$", r"preexec_[f]n\s*=", "shared.runtime.launch prepares a child after exec, not before"),
    (r"\.py$", r'"""(?:Gives?|Tells?|Says?|Hears?)\b', "a docstring begins with what comes back or what happens"),
)
MAY_HOLD_FUNCTIONS = {
    f"contracts/{name}.py"
    for name in (
        *("evaluations/__init__", "evaluations/text_sets", "identities", "limits", "storage/sources"),  # of the client
        *("envelope", "manifests", "records", "services", "vocabulary"),  # forms of data and of names
        "trigger_metrics",  # a metric is declared in one file, also what makes a request bad
    )
}
HANDLES_CONFLICTS = {
    "shared/storage/compare_and_set.py",  # the one loop
    "services/registry/audit.py",  # written by one process at a time, which reads again at the next sweep
    "services/registry/record_orders.py",  # refuses an order that another writer overtook
    "services/rollback_controller/controller.py",  # probes the target between reading and writing a route
    "services/rollback_controller/operator_orders.py",  # checks the order between reading and writing a route
    "services/rollback_controller/rehearsal.py",  # writes staging's route
    "services/server_manager/adapters/kv_state.py",  # tries a lease once
}
PROGRAMS_OF_SERVICES = re.compile(r"/main\.py$|/(?:processor|\w*worker)\.py$")
OUTPUT = re.compile(r"(^|/)(\.env|\.state|\.venv|__pycache__|node_modules)(/|$)|\.(pem|key|pyc|safetensors|bin|gguf)$")
SLEEP = re.compile(r"(?:asyncio|time)\.sleep\((?!0[,)])")
PARTS = ("README.md", "app.py", "main.py", "settings.py", "ports.py", "adapters/__init__.py")


def forbidden_texts() -> Iterator[str]:
    """Yield what no committed file may hold: of one machine, secrets, switches of whole processes, some words."""
    rules = [(re.compile(paths), re.compile(pattern, re.MULTILINE), named) for paths, pattern, named in FORBIDDEN]
    for path in committed():
        for paths, pattern, sentence in rules:
            if paths.search(path):
                for match in pattern.finditer(text(path)):
                    yield problem(path, match, f"{match[0].strip()!r}: {sentence}")


def committed_outputs() -> Iterator[str]:
    """Yield files that are no source: outputs, keys, weights, files above 1 MiB."""
    for path in committed():
        if OUTPUT.search(path):
            yield problem(path, 1, "outputs, keys and weights are not committed")
        if (ROOT / path).stat().st_size > 1024 * 1024:
            yield problem(path, 1, "a committed file has at most 1 MiB")


def long_modules() -> Iterator[str]:
    """Yield modules with too many lines."""
    for path in files("contracts/", "decisions/", "shared/", "services/"):
        if (lines := text(path).count("\n")) > MOST_LINES:
            yield problem(path, lines, f"a module has at most {MOST_LINES} lines, this one has {lines}")


def contracts_are_data() -> Iterator[str]:
    """Yield functions of contracts/ outside the modules that may hold some, and decisions there."""
    for path in files("contracts/"):
        for node in tree(path).body if path not in MAY_HOLD_FUNCTIONS else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield problem(path, node, f"contracts are data: {node.name} belongs into decisions/")
        for match in re.finditer(r"def (?:decide|plan|assess)_\w+|\.model_copy\(", text(path)):
            yield problem(path, match, f"contracts are data: {match[0]} belongs into decisions/")


def handlers_leave_failures_to_the_bus() -> Iterator[str]:
    """Yield handlers with a `try`, and conflicts of records that are caught outside the listed files."""
    for path in files("services/", suffix="/app.py"):
        for handler in ast.walk(tree(path)):
            if isinstance(handler, ast.AsyncFunctionDef) and any(
                ast.unparse(decorator).startswith("bus.on(") for decorator in handler.decorator_list
            ):
                tries = [node for node in ast.walk(handler) if isinstance(node, ast.Try)]
                yield from (problem(path, node, f"the handler {handler.name} has a try") for node in tries)
    for path in set(files("shared/", "services/")) - HANDLES_CONFLICTS:
        for match in re.finditer(r"(?:except|contextlib\.suppress\()[^\n]*\bConflict\b", text(path)):
            yield problem(path, match, "records change through RecordStore.transact or edit_record (docs/adr/0011)")


def services_have_one_shape() -> Iterator[str]:
    """Yield missing parts of a service, readers of the environment beside `main`, settings of another form."""
    for app in files("services/", suffix="/app.py"):
        folder = app.removesuffix("/app.py")
        name = folder.removeprefix("services/")
        missing = [part for part in PARTS if f"{folder}/{part}" not in committed()]
        missing += [] if files(f"{folder}/domain/", f"{folder}/domain.py") else ["domain"]
        yield from (problem(app, 1, f"the service has no {part}") for part in missing)
        settings = f"{name.title().replace('_', '')}Settings"
        config = getattr(importlib.import_module(f"services.{name}.settings"), settings).model_config
        if not config["frozen"] or config["env_prefix"] != f"{name.upper()}_":
            yield problem(f"{folder}/settings.py", 1, f"{settings} is frozen and has the prefix {name.upper()}_")
        for path in files(f"{folder}/"):
            for match in re.finditer(
                rf"\benviron\b|\bread_settings\((?:Connection|{settings})\)|\b(?:Connection|{settings})\(\)", text(path)
            ):
                if not PROGRAMS_OF_SERVICES.search(path):
                    yield problem(path, match, "the environment is read in main.py alone")
            is_program = "\nif __name__ ==" in text(path) and not path.endswith(
                "/wandb_worker.py"
            )  # not of our packages
            if is_program and not re.search(r"\b(?:finish_imports|job_main|run_service)\(", text(path)):
                yield problem(path, 1, "a program calls finish_imports once it is imported")


def fixed_sleeps() -> Iterator[str]:
    """Yield sleeps outside a loop, in tests on real servers, that no comment on their line explains."""
    for path in files("tests/integration/", "tests/real/", "tests/e2e/", "tests/chaos/"):
        loops = [node for node in ast.walk(tree(path)) if isinstance(node, ast.While | ast.For | ast.AsyncFor)]
        polling, lines = {node for loop in loops for node in ast.walk(loop)}, text(path).splitlines()
        calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call) and node not in polling]
        for call in calls:
            if SLEEP.match(ast.unparse(call)) and "#" not in lines[call.lineno - 1]:
                yield problem(path, call, "wait for a condition, or comment on why the time itself is tested")


CHECKS = (
    forbidden_texts,
    committed_outputs,
    long_modules,
    contracts_are_data,
    handlers_leave_failures_to_the_bus,
    services_have_one_shape,
    fixed_sleeps,
)
