"""Renders, lints and validates a chart; runs in the environment of `environment.sh charts`, which has Helm as a library.

Reads `{"chart": FOLDER, "cases": {NAME: VALUES}, "refused": {NAME: VALUES}, "broken": {NAME: OBJECT},
"examples": {NAME: OBJECT}}` from standard input. Writes, for each case, its objects, what lint reports and what a version
of Kubernetes or an extension refuses; for each refused case the message; for each broken object and example what is
refused.
"""

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

import cloudcoil.pydantic
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

VERSIONS = ("1.30.0", "1.33.0", "1.37.0")
"""The oldest that the chart takes, one between, and the newest that the package knows."""

# Models of thousands of classes: unknown fields are errors, and a class is built when it is used.
cloudcoil.pydantic.BaseModel.model_config.update(defer_build=True, extra="forbid")


def extension_models() -> dict[tuple[str, str], Any]:
    """Return the models of the kinds that extensions of Kubernetes define."""
    from cloudcoil.models.cert_manager import v1 as cert_manager
    from cloudcoil.models.keda import v1alpha1 as keda
    from cloudcoil.models.prometheus_operator import v1 as prometheus
    from own_models import OWN  # beside this file; the tree is not on the path of that environment

    return {
        ("cert-manager.io/v1", "Certificate"): cert_manager.Certificate,
        ("keda.sh/v1alpha1", "ScaledObject"): keda.ScaledObject,
        ("monitoring.coreos.com/v1", "PodMonitor"): prometheus.PodMonitor,
        ("monitoring.coreos.com/v1", "PrometheusRule"): prometheus.PrometheusRule,
        **OWN,
    }


def schema_file(version: str, name: str) -> Any:
    """Return a strict schema that the package `kubernetes-validate` ships."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    return json.loads((folder / name).read_text())


@cache
def definitions(version: str) -> Registry[Any]:
    """Return the definitions that the schemas of one version refer to."""
    return Resource.from_contents(schema_file(version, "_definitions.json")) @ Registry()


@cache
def kubernetes_validator(version: str, api_version: str, kind: str) -> Draft202012Validator:
    """Return the validator of a kind; built once, which `kubernetes_validate.validate` does for every object."""
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = schema_file(version, f"{kind.lower()}-{group}.json")
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ definitions(version))


class Validator:
    """Finds what is wrong with objects; what it has seen is not validated again."""

    def __init__(self) -> None:
        self.models = extension_models()
        self.seen: dict[str, list[str]] = {}

    def problems(self, document: dict[str, Any]) -> list[str]:
        """Return what one of the versions of Kubernetes, or the model of an extension, refuses."""
        key = json.dumps(document, sort_keys=True)
        if key not in self.seen:
            where = f"{document['kind']} {document['metadata']['name']}"
            self.seen[key] = [f"{where}: {problem}" for problem in self._problems(document)]
        return self.seen[key]

    def _problems(self, document: dict[str, Any]) -> Iterator[str]:
        model = self.models.get((document["apiVersion"], document["kind"]))
        if model is not None:
            try:
                model.model_validate(document)
            except ValueError as error:
                yield str(error)
            if document["kind"] != "InferenceService":
                return
            document = as_pod(document)
        for version in VERSIONS:
            try:
                validator = kubernetes_validator(version, document["apiVersion"], document["kind"])
            except FileNotFoundError:
                yield f"Kubernetes {version} does not know {document['apiVersion']} {document['kind']}"
            else:
                for error in validator.iter_errors(document):
                    yield f"Kubernetes {version}: {error.json_path}: {error.message}"


def as_pod(document: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that an InferenceService asks for."""
    predictor = document.get("spec", {}).get("predictor", {})
    spec = {name: predictor[name] for name in ("containers", "volumes") if name in predictor}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    validator = Validator()
    answer: dict[str, Any] = {"cases": {}, "refused": {}}
    answer["broken"] = {name: validator.problems(broken) for name, broken in request["broken"].items()}
    answer["examples"] = {name: validator.problems(example) for name, example in request["examples"].items()}
    with Chart.load(request["chart"]) as chart:
        for name, values in request["cases"].items():
            files = chart.render(values, name="slipway", namespace="slipway", is_install=True)
            documents = [
                document
                for path, text in sorted(files.items())
                if path.endswith(".yaml")
                for document in yaml.safe_load_all(text)
                if document
            ]
            problems = [problem for document in documents for problem in validator.problems(document)]
            report = lint(request["chart"], values, strict=True, namespace="slipway")
            answer["cases"][name] = {"objects": documents, "problems": problems, "lint": report}
        for name, values in request["refused"].items():
            try:
                chart.validate_schema(values)
                chart.render(values, name="slipway", namespace="slipway")
            except HelmError as error:
                answer["refused"][name] = str(error)
            else:
                answer["refused"][name] = ""
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
