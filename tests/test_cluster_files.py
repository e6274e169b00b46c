"""The cluster files, and what a job ships to a cluster. No test contacts a cloud."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema

from actors.cluster.nodes import addable_nodes
from actors.cluster.placement import NodeGroup, place
from actors.options.pool_size import PoolSize
from jobs.capacity.placement import learner_request, request
from jobs.options.crpo import load_config
from serve.options import KEY_VARIABLE, options_of

REPOSITORY = Path(__file__).resolve().parents[1]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: Ray's validation looks for the token there, and writes a state file for local clusters."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    return tmp_path


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-local.yaml"])
def test_ray_accepts_the_cluster_file(name: str, home: Path) -> None:
    config = prepare_config(read(name))
    validate_config(config)
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-local.yaml"])
def test_a_cluster_gets_the_files_that_a_job_ships(name: str) -> None:
    config = read(name)
    assert config["rsync_filter"] == [".rayignore"] and "rsync_exclude" not in config
    docker = (REPOSITORY / ".dockerignore").read_text().splitlines()[1:]
    ray = (REPOSITORY / ".rayignore").read_text().splitlines()[1:]
    caches = {line for line in ray if line.endswith("_cache/")}
    left = {line.strip("/") for line in set(ray) - caches}
    assert left | {".*_cache"} == {line.removeprefix("**/") for line in docker}


def test_every_worker_of_the_cluster_config_fits_a_node_of_its_type() -> None:
    config = load_config(["--config", "cluster"])
    kinds = {node.name: node for node in addable_nodes(read("cluster.yaml"), {})}
    for kind, workers in (("rollout", config.rollouts), ("reward", config.rewards)):
        asked = request(kind, workers)
        most = PoolSize.parse(workers.workers).most
        assert asked.resources[kind] == 1
        assert place([asked], [kinds[kind]]) == {kind: {kind: asked.count}}
        assert kinds[kind].count >= most, "enough nodes for the largest pool"
    assert place([learner_request(config.learner)], [kinds["learner"]])["learner ranks"] == {"learner": 4}
    assert config.learner.beta == 2000, "everything else is the paper's"


@pytest.mark.parametrize(("name", "cluster"), [("rayjob", "rayClusterSpec"), ("rayservice", "rayClusterConfig")])
def test_the_manifests_have_the_groups_of_the_cluster_file(name: str, cluster: str) -> None:
    manifest = read(f"deploy/{name}.yaml")
    spec = manifest["spec"][cluster]
    assert manifest["apiVersion"] == "ray.io/v1" and spec["authOptions"] == {"mode": "token"}
    kinds = {node.name: node for node in addable_nodes(read("cluster.yaml"), {})}
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        [container] = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        custom = json.loads(json.loads(group["rayStartParams"]["resources"]))
        node = NodeGroup("", {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"]), **custom})
        assert node.resources == kinds[group["groupName"]].resources
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
    ports = {port["containerPort"] for port in spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {6379, 8265, 8080} <= ports


def test_the_service_of_the_manifest_has_valid_options_and_a_key() -> None:
    spec = read("deploy/rayservice.yaml")["spec"]
    assert host_of(yaml.safe_load(spec["serveConfigV2"])) == "0.0.0.0"
    head = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert [variable["name"] for variable in head["env"]] == [KEY_VARIABLE]


def test_the_service_of_the_cluster_listens_on_loopback() -> None:
    assert host_of(read("deploy/serve.yaml")) == "127.0.0.1"


def host_of(service: dict[str, Any]) -> str:
    """The address on which a Serve config listens; checks its options."""
    config = ServeDeploySchema.model_validate(service)
    [application] = config.applications
    assert application.import_path == "serve.app:app"
    options = options_of(application.args)
    assert options.replica.resources == {"rollout": 1} and str(options.replica.replicas) == "1:4"
    return config.http_options.host


def test_the_job_of_the_manifest_has_valid_options() -> None:
    _, script, *options = read("deploy/rayjob.yaml")["spec"]["entrypoint"].split()
    assert (REPOSITORY / script).is_file()
    assert load_config(options).rollouts.resources == {"rollout": 1}


def test_a_job_ships_the_code_and_the_miniature_and_nothing_large(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(REPOSITORY), package, include_gitignore=True)
    with zipfile.ZipFile(package) as content:
        names = {name for name in content.namelist() if not name.endswith("/")}
    weights = [path for path in (REPOSITORY / "tangoflux" / "miniature").rglob("*") if path.is_file()]
    assert weights and {str(path.relative_to(REPOSITORY)) for path in weights} <= names
    assert {"jobs/crpo.py", "jobs/options/configs/cluster.yaml", "actors/pools/pool.py"} <= names
    left = {"runs", ".git", ".venv", "tests", "build", "benchmarks", "tangoflux.egg-info"}
    assert not left & {name.split("/")[0] for name in names}
    assert package.stat().st_size < 20e6, "every node downloads it before it starts"
