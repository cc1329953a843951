"""Checks files against the schemas of what is to read them, unknown keys included: manifests for Kubernetes and Istio, a
CycloneDX bill of materials. Prints the kind of each document, and what is wrong with it if anything is."""

import sys

import kubernetes_validate
import yaml
from cloudcoil.models.istio.extensions.v1alpha1 import WasmPlugin
from cloudcoil.models.istio.networking.v1 import Gateway, VirtualService
from cloudcoil.models.istio.networking.v1alpha3 import EnvoyFilter
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

KUBERNETES = "1.37.0"
ISTIO = {model.__name__: model for model in (EnvoyFilter, Gateway, VirtualService, WasmPlugin)}


def check(document):
    group = document["apiVersion"].split("/")[0]
    if not group.endswith(".istio.io"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    # These models are Istio 1.24's, and it is since 1.27 that a module can be reloaded.
    if document["spec"].get("failStrategy") == "FAIL_RELOAD":
        document["spec"]["failStrategy"] = "FAIL_CLOSE"
    model = ISTIO[document["kind"]].model_validate(document, extra="forbid")
    assert model.api_version == document["apiVersion"]


def documents(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if path.endswith(".cdx.json"):
        yield "CycloneDX", JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
        return
    for document in yaml.safe_load_all(text):
        try:
            yield document["kind"], check(document)
        except (ValueError, kubernetes_validate.ValidationError) as error:
            yield document["kind"], error


for path in sys.argv[1:]:
    for kind, wrong in documents(path):
        print(f"{kind}: {' '.join(str(wrong).split())}" if wrong else kind)
