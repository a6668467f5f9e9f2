"""The files that describe clusters: against the schemas and code of those who read them, and against this project."""

import ast
import ipaddress
import json
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.session import Session
from botocore.validate import ParamValidator

import ray_job
from pipelines.config import options
from pipelines.run import ray_internals
from pipelines.storage import s3
from pipelines.training import train
from tests.support.commands import ROOT as PROJECT

CLUSTER = PROJECT / "cluster"
SCHEMAS = PROJECT.parent / "shared" / "schemas"
DOCS = (PROJECT / "docs" / "clusters.md").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
DASHBOARD = json.loads((CLUSTER / "monitoring" / "grafana-dashboard.json").read_text())
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (PROJECT / "constraints.txt").read_text(), re.MULTILINE))
FILES = [
    *(path for path in sorted(CLUSTER.rglob("*")) if path.is_file() and path.suffix in (".yaml", ".json")),
    CLUSTER / "Dockerfile",
    PROJECT / ".dockerignore",
    PROJECT / "docs" / "clusters.md",
]


def documents(name):
    return list(yaml.safe_load_all((CLUSTER / name).read_text()))


def document(name):
    [only] = documents(name)
    return only


AWS = document("aws.yaml")
RAY_FOLDER = "/home/ec2-user/ray"
CLUSTERS = {
    "raycluster": document("kuberay/raycluster.yaml")["spec"],
    "rayjob": document("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"],
}
SUBMITTER = document("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]
POLICIES = documents("kuberay/networkpolicy.yaml")


def ray_templates(spec):
    """Pod templates of head and workers."""
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


TEMPLATES = [*ray_templates(CLUSTERS["raycluster"]), *ray_templates(CLUSTERS["rayjob"]), SUBMITTER]
CONTAINERS = [container for template in TEMPLATES for container in template["spec"]["containers"]]


def items_of(value):
    """(key, value) of all mappings in it, at any depth."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from items_of(part)


def strict(schema, is_root=False):
    """A structural schema as JSON schema that refuses what Kubernetes would silently drop."""
    result = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    properties = schema.get("properties", {})
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    result["properties"] = {name: strict(value) for name, value in properties.items()}
    if is_root:
        result["properties"]["metadata"] = {"type": "object"}  # the API server's own
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = strict(schema[key])
    return result


@pytest.mark.parametrize("kind", ["raycluster", "rayjob"])
def test_kuberay_files_fit_the_schema_and_have_no_unknown_field(kind):
    definition = SCHEMAS / f"ray.io_{kind}s.yaml"
    if not definition.exists():
        pytest.skip(f"{definition.name}, KubeRay's definition, is not on this machine")
    versions = yaml.load(definition.read_text(), Loader=yaml.CSafeLoader)["spec"]["versions"]
    [schema] = [version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1"]
    file = document(f"kuberay/{kind}.yaml")
    assert file["apiVersion"] == "ray.io/v1" and file["kind"].lower() == kind
    validator = jsonschema.Draft202012Validator(strict(schema, is_root=True))
    assert [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(file)] == []
    file["spec"]["unheardOf"] = 1
    assert not validator.is_valid(file)


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda container: container["name"])
def test_every_container_is_hardened_and_limited(container):
    security = container["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] == image_user()
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for kind in ("requests", "limits"):
        assert {"cpu", "memory"} <= set(container["resources"][kind])
    assert {"/tmp", "/home/dmlcsr"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_ray_containers_have_shared_memory_and_the_credentials(spec):
    for template in ray_templates(spec):
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        [container] = template["spec"]["containers"]
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert all(volume["emptyDir"]["sizeLimit"] for volume in mounts.values())
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["dmlcsr-s3"]


def test_no_pod_gets_the_service_account_token_by_itself():
    accounts = {each["metadata"]["name"]: each for each in documents("kuberay/namespace.yaml") if "kind" in each}
    for template in TEMPLATES:
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert accounts[template["spec"]["serviceAccountName"]]["kind"] == "ServiceAccount"


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_the_autoscaler_alone_can_talk_to_kubernetes(spec):
    autoscaler = spec["autoscalerOptions"]
    assert spec["enableInTreeAutoscaling"] is True and autoscaler["version"] == "v2"
    assert autoscaler["securityContext"] == CONTAINERS[0]["securityContext"]
    assert {"cpu", "memory"} <= set(autoscaler["resources"]["limits"])
    head = spec["headGroupSpec"]["template"]["spec"]
    [token] = [volume["name"] for volume in head["volumes"] if "projected" in volume]
    folder = [mount["mountPath"] for mount in autoscaler["volumeMounts"] if mount["name"] == token]
    assert folder == ["/var/run/secrets/kubernetes.io/serviceaccount"]
    assert token not in [mount["name"] for mount in head["containers"][0]["volumeMounts"]]
    assert {mount["name"] for mount in autoscaler["volumeMounts"]} <= {volume["name"] for volume in head["volumes"]}


@pytest.mark.parametrize("spec", CLUSTERS.values(), ids=CLUSTERS)
def test_a_cluster_takes_tokens_keeps_work_off_its_head_and_grows_both_kinds_of_workers(spec):
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert {name: gpus_of(group) for name, group in groups.items()} == {"decode": 0, "train": 1}
    assert all(0 <= group["minReplicas"] < group["maxReplicas"] for group in groups.values())
    # The operator refuses anything else with autoscaler v2.
    assert {template["spec"]["restartPolicy"] for template in ray_templates(spec)} == {"Never"}


def test_a_sweep_runs_on_the_standing_cluster_but_for_what_survives_its_head():
    standing = dict(CLUSTERS["raycluster"])
    store = standing.pop("gcsFaultToleranceOptions")
    assert "valueFrom" in store["redisPassword"] and "value" not in store["redisPassword"]
    assert standing == CLUSTERS["rayjob"]


def gpus_of(group):
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


def kuberay_limits(spec):
    """CPUs and GPUs that a cluster grows to."""
    cpus = gpus = 0
    for group in spec["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"]["cpu"] == resources["limits"]["cpu"]
        cpus += group["maxReplicas"] * int(resources["limits"]["cpu"])
        gpus += group["maxReplicas"] * gpus_of(group)
    return cpus, gpus


def aws_limits():
    types = AWS["available_node_types"].values()
    return tuple(sum(each["max_workers"] * each["resources"].get(name, 0) for each in types) for name in ("CPU", "GPU"))


def resolved(words):
    """The configuration of `python ray_job.py COMMAND ...`; raises UserError where it is not a valid one."""
    assert words[:2] == ["python", "ray_job.py"]
    command = ray_job.COMMANDS[words[2]]
    return options.resolve(command.config, options.parse(words[2], command.config, words[3:], command.with_presets))


def assert_fits(sweep, limits):
    assert (sweep.cluster.max_cpus, sweep.cluster.max_gpus) == limits
    needs = train.needs(sweep)
    assert 0 < needs.cpus < limits[0] and 0 < needs.gpus <= limits[1]


def test_the_rayjob_is_a_valid_sweep_that_fits_its_cluster_and_is_repeated():
    job = document("kuberay/rayjob.yaml")["spec"]
    sweep = resolved(shlex.split(job["entrypoint"]))
    assert all(uri.startswith("s3://") for uri in (sweep.data, sweep.out, sweep.init))
    assert_fits(sweep, kuberay_limits(job["rayClusterSpec"]))
    assert job["backoffLimit"] >= 1 and job["shutdownAfterJobFinishes"] is True


def selects(selector, labels):
    return set(selector.get("matchLabels", {}).items()) <= set(labels.items())


def test_the_network_policy_admits_the_own_pods_submitter_operator_and_prometheus_only():
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in POLICIES}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ray_labels, submitter_labels = (template["metadata"]["labels"] for template in (TEMPLATES[0], SUBMITTER))
    assert all(template["metadata"]["labels"] == ray_labels for template in TEMPLATES[:-1])
    assert selects(policies["ray"]["podSelector"], ray_labels)
    assert not selects(policies["ray"]["podSelector"], submitter_labels)
    assert selects(policies["submitter"]["podSelector"], submitter_labels)
    own, jobs, metrics = policies["ray"]["ingress"]
    assert [selects(peer["podSelector"], ray_labels) for peer in own["from"]] == [True]
    assert selects(jobs["from"][0]["podSelector"], submitter_labels)
    assert [port["port"] for rule in (jobs, metrics) for port in rule["ports"]] == [8265, 8080]
    namespaces = [peer["namespaceSelector"] for rule in (jobs, metrics) for peer in rule["from"][-1:]]
    names = [selector["matchLabels"]["kubernetes.io/metadata.name"] for selector in namespaces]
    assert names == ["kuberay-system", "monitoring"]
    for spec in policies.values():
        assert all(rule["from"] for rule in spec.get("ingress", [])) and all(
            rule["to"] for rule in spec.get("egress", [])
        )


ADDRESSES = {
    "a public object store": "52.218.0.1", "a private address": "10.1.2.3", "the API server": "172.20.0.1",
    "shared address space": "100.64.0.9", "the metadata service": "169.254.169.254",
    "NodeLocal DNSCache": "169.254.20.10", "EKS Pod Identity": "169.254.170.23",
}  # fmt: skip


def reachable(spec, address):
    """The (port, protocol) of an address that a policy lets its pods reach."""
    found, ip = set(), ipaddress.ip_address(address)
    for rule in spec.get("egress", []):
        for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
            networks = [ipaddress.ip_network(cidr) for cidr in (block["cidr"], *block.get("except", []))]
            if ip in networks[0] and not any(ip in network for network in networks[1:]):
                found |= {(port["port"], port["protocol"]) for port in rule["ports"]}
    return found


def test_pods_reach_the_store_names_and_credentials_and_only_the_head_reaches_the_api_server():
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in POLICIES}
    https = {(443, "TCP")}
    expected = {"a public object store": https, "EKS Pod Identity": {(80, "TCP")}}
    assert {name: reachable(policies["ray"], ip) for name, ip in ADDRESSES.items()} == {
        name: expected.get(name, set()) for name in ADDRESSES
    }
    names = {name: reachable(policies["dns"], ip) for name, ip in ADDRESSES.items()}
    assert names.pop("NodeLocal DNSCache") == {(53, "UDP"), (53, "TCP")} and not any(names.values())
    assert policies["dns"]["podSelector"] == {}
    head = policies["autoscaler"]
    assert head["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    assert reachable(head, ADDRESSES["the API server"]) == https | {(6443, "TCP")}
    assert not reachable(head, ADDRESSES["the metadata service"])


def test_everything_is_in_the_namespace():
    files = ("namespace.yaml", "networkpolicy.yaml", "raycluster.yaml", "rayjob.yaml")
    found = [each for name in files for each in documents(f"kuberay/{name}")] + [document("monitoring/podmonitor.yaml")]
    namespace = found.pop(0)
    assert {each["metadata"]["namespace"] for each in found} == {namespace["metadata"]["name"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_holds_a_secret(path):
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|\b[0-9a-fA-F]{32,}\b|[A-Za-z0-9+/]{40,}={0,2}(?![\w/-])", text)
    names = r"(?i)[\w.-]*(?:password|secret_access_key|access_key_id|auth_token)[\"']?\s*[=:]\s*(\S+)"
    values = [value.strip("\"'") for value in re.findall(names, text)]
    # In documentation a value is taken from the shell; in files it is a reference (a nested mapping) or a path.
    assert all(value.startswith(("$", "~/", "valueFrom", "{", "`")) for value in values), values
    if path.suffix == ".yaml":
        for each in yaml.safe_load_all(text):
            assert each.get("kind") != "Secret"
            assert not any(key == "env" for key, _ in items_of(each)), "variables come from the Secret dmlcsr-s3"


def test_every_ray_version_is_the_pinned_one():
    assert {spec["rayVersion"] for spec in CLUSTERS.values()} == {PINS["ray"]}
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    images = [container["image"] for container in CONTAINERS] + re.findall(r"dmlcsr:\d\S+", DOCKERFILE + DOCS)
    assert len(images) > len(CONTAINERS) + 3
    assert {image.rsplit("-", 1)[0] for image in images} == {f"dmlcsr:{version}-ray{PINS['ray']}"}
    assert {image.rsplit("-", 1)[1] for image in images} == {"cpu", "cuda"}
    assert all(("nvidia.com/gpu" in c["resources"]["limits"]) == c["image"].endswith("cuda") for c in CONTAINERS)


def image_user():
    return int(re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)[-1])


def test_the_image_is_pinned_not_root_and_gets_the_whole_project():
    assert image_user() > 0
    bases = set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE))
    assert bases == {"python:3.11-slim-bookworm"}
    installs = re.findall(r"pip install .*", DOCKERFILE)
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    copied = {
        name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()
    }
    admitted = set(re.findall(r"^!(\S+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE))
    assert copied == admitted and all((PROJECT / name).exists() for name in copied)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in included} <= copied


def test_ray_takes_the_aws_file():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(AWS, schema)
    prepared = ray_internals.prepared_cluster_file(document("aws.yaml"))
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    # Ray merges its own defaults into what is missing here: they must not install another Ray.
    assert not [command for command in prepared["head_setup_commands"] if "wheel" in command or "anaconda" in command]


@pytest.mark.parametrize("name", AWS["available_node_types"])
def test_ec2_knows_every_setting_of_a_machine(name):
    node = AWS["available_node_types"][name]["node_config"]
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    assert not report.has_errors(), report.generate_report()
    assert ParamValidator().validate({"MinCount": 1, "MaxCount": 1, "UnheardOf": 1}, shape).has_errors()
    assert node["MetadataOptions"]["HttpTokens"] == "required"
    assert set(node["IamInstanceProfile"]) == {"Name"}
    assert node["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    is_spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    assert is_spot == (name != AWS["head_node_type"])


def test_aws_machines_get_the_pinned_project_tokens_and_a_head_without_work():
    types = AWS["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert [name for name, each in types.items() if "GPU" in each["resources"]] == ["train"]
    assert sum(each["max_workers"] for each in types.values()) == AWS["max_workers"]
    installs = [line for line in AWS["setup_commands"] + AWS["head_setup_commands"] if "pip install" in line]
    assert len(installs) == 2 and all("-c ~/dmlcsr/constraints.txt" in line for line in installs)
    assert f"boto3=={PINS['botocore']}" in installs[1] and f"boto3=={PINS['botocore']}" in DOCS
    starts = [AWS[f"{kind}_start_ray_commands"][1] for kind in ("head", "worker")]
    assert all("export RAY_AUTH_MODE=token;" in start for start in starts)
    patience = " ".join(f"{name}={value}" for name, value in s3._METADATA_SERVICE.items())
    for start in starts:
        assert f"--temp-dir={RAY_FOLDER} --block </dev/null" in start and start.endswith("&"), "drained, on the disk"
        assert f"export {patience};" in start
    [python] = [line for line in AWS["setup_commands"] if "uv venv" in line]
    assert re.search(r"--managed-python --python 3\.11\.\d+ ", python), "one exact version for all machines"
    assert all(re.search(r"uv==\d+\.\d+\.\d+$", line) for line in AWS["setup_commands"] if "pip3 install" in line)
    assert "--dashboard-host=127.0.0.1" in starts[0] and "--num-cpus=0" in starts[0]
    assert AWS["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert AWS["rsync_filter"] == [".rayignore"] and AWS["file_mounts"]["~/dmlcsr"] == "."


def metrics_of_the_code():
    """Names as Prometheus sees them."""
    names = set()
    for path in (PROJECT / "pipelines").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("metrics."):
                kind, name = ast.unparse(node.func).removeprefix("metrics."), ast.literal_eval(node.args[0])
                names.add(f"ray_{name}_total" if kind == "Counter" else f"ray_{name}")
    return names


RAYS_OWN = {
    "ray_cluster_active_nodes", "ray_cluster_pending_nodes", "ray_cluster_failed_nodes", "ray_node_cpu_utilization",
    "ray_object_store_memory",
}  # fmt: skip


def test_the_dashboard_shows_the_metrics_of_the_code_and_no_others():
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for query in queries for name in re.findall(r"\bray_\w+", query)}
    assert metrics_of_the_code()
    assert shown - RAYS_OWN == metrics_of_the_code()
    assert shown >= RAYS_OWN
    assert set(re.findall(r"`(ray_\w+)`", DOCS)) == metrics_of_the_code()


def test_rays_own_metrics_exist_in_the_installed_ray():
    package = Path(ray.__file__).parent / "dashboard" / "modules"
    sources = [package / "reporter" / "reporter_agent.py", *(package / "metrics" / "dashboards").glob("*_panels.py")]
    known = "\n".join(path.read_text() for path in sources)
    for name in RAYS_OWN:
        assert name in known or f'"{name.removeprefix("ray_")}"' in known, name


def test_every_panel_has_a_unit_a_source_and_a_place():
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    for panel in DASHBOARD["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "percent", "bytes")
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    panels = DASHBOARD["panels"]
    assert (
        len({panel["id"] for panel in panels})
        == len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels})
        == len(panels)
    )


def test_prometheus_reads_rays_list_of_nodes_and_all_ray_pods():
    [job] = document("monitoring/prometheus.yaml")["scrape_configs"]
    [found] = job["file_sd_configs"]
    folders = ["/tmp/ray", RAY_FOLDER]
    assert job["job_name"] == "ray" and found["files"] == [
        f"{each}/{ray_internals.PROMETHEUS_FILE}" for each in folders
    ]
    monitor = document("monitoring/podmonitor.yaml")["spec"]
    assert [selects(monitor["selector"], template["metadata"]["labels"]) for template in TEMPLATES].count(False) == 1
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]


def documented_lines():
    """Lines of all fenced blocks; continued ones are one."""
    blocks = re.findall(r"^```\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]


COMMANDS = [line[line.index("python ray_job.py") :] for line in documented_lines() if "python ray_job.py" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_are_valid(command):
    config = resolved(shlex.split(command))
    if getattr(config, "cluster", None) and config.cluster.max_cpus:
        limits = [kuberay_limits(CLUSTERS["raycluster"]), aws_limits()]
        assert_fits(config, limits[0 if config.cluster.max_cpus == limits[0][0] else 1])


def test_the_documentation_names_files_that_exist_and_submits_to_all_three():
    assert len([line for line in documented_lines() if "ray job submit" in line and " tune " in line]) == 3
    named = {word.strip("`;,.") for word in re.findall(r"cluster/[\w./-]+", DOCS)}
    assert len(named) > 5 and all((PROJECT / name).exists() for name in named), named
