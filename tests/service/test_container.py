"""The container files: they cannot be built here, but what they say can be checked."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest

from ctxcomp_service.settings import Settings, load_settings, unknown_variables

yaml = pytest.importorskip("yaml")

INSTRUCTIONS = set(
    "FROM RUN CMD LABEL EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG STOPSIGNAL HEALTHCHECK SHELL".split()
)


@pytest.fixture
def dockerfile(root):
    text = (root / "service" / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [tuple(line.split(maxsplit=1)) for line in lines]


@pytest.fixture
def compose(root):
    return yaml.safe_load((root / "service" / "compose.yaml").read_text(encoding="utf-8"))


def words(dockerfile, instruction):
    return [shlex.split(rest) for name, rest in dockerfile if name == instruction]


def test_the_dockerfile_is_one(dockerfile):
    assert dockerfile[0][0] == "FROM"
    assert {name for name, _ in dockerfile} <= INSTRUCTIONS
    assert not [image for [image] in words(dockerfile, "FROM") if ":" not in image or image.endswith(":latest")]


def test_what_it_copies_is_there(root, dockerfile):
    for *sources, _ in words(dockerfile, "COPY"):
        assert all((root / source).exists() for source in sources), sources


def test_it_installs_extras_that_exist_with_pinned_versions(root, dockerfile):
    [install] = [line for line in words(dockerfile, "RUN") if "pip" in line]
    assert install[install.index("-c") + 1] == "constraints.txt"
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [extras] = re.findall(r"\[(.*)\]", install[-1])
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    [base] = words(dockerfile, "FROM")[0]
    assert base.removeprefix("python:").removesuffix("-slim") in str(project["classifiers"])


def test_it_runs_as_nobody_in_particular_and_is_watched(dockerfile):
    order = [name for name, _ in dockerfile]
    assert words(dockerfile, "USER") == [["ctxcomp"]]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert order.index("RUN") < order.index("USER")
    [check] = [rest for name, rest in dockerfile if name == "HEALTHCHECK"]
    assert "/healthz" in check
    [[port]] = words(dockerfile, "EXPOSE")
    assert f":{port}/healthz" in check


def test_its_environment_are_settings(dockerfile, monkeypatch):
    [assignments] = words(dockerfile, "ENV")
    environment = dict(word.split("=", 1) for word in assignments)
    assert not unknown_variables(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CTXCOMP_ALLOW_ANONYMOUS", "true")
    assert load_settings().host == "0.0.0.0"


def test_the_compose_file(root, compose, dockerfile, monkeypatch):
    service = compose["services"]["ctxcomp"]
    folder = root / "service"
    context = (folder / service["build"]["context"]).resolve()
    assert context == root.resolve()
    assert (context / service["build"]["dockerfile"]).is_file()
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (folder / source).exists() if source.startswith(".") else source in compose["volumes"]
    assert set(service["depends_on"]) <= set(compose["services"])
    assert not unknown_variables(service["environment"])
    for name, value in service["environment"].items():
        assert isinstance(value, str)
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CTXCOMP_CONFIG", str(folder / "ctxcomp.toml"))
    settings = load_settings()
    seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.drain_seconds + settings.limits.seconds
    [[port]] = words(dockerfile, "EXPOSE")
    assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert settings.store.kind == "redis"


def test_the_example_settings_are_settings_with_their_comments_as_well(root):
    text = (root / "service" / "ctxcomp.toml").read_text(encoding="utf-8")
    given = tomllib.loads(re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE).replace('"..."', f'"{"0" * 64}"'))
    assert {"keys", "upstreams", "defaults"} <= set(given)
    assert Settings(**given).keys[0].tenant == "search"
