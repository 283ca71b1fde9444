# SPDX-License-Identifier: MIT
"""The service as a broker module, and how what Flux starts finds the library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from ensemble.errors import NoService
from ensemble.service import supervisor
from t.flux.installed import MODULE, TOP, environment, need_flux_python
from t.flux.processes import PATIENCE, gone

pytestmark = pytest.mark.flux
MODULE_FILE = str(MODULE / "ensemble.py")
MAIN = [sys.executable, "-m", "ensemble.service.main"]


@pytest.fixture(scope="module")
def instance(flux_instance, tmp_path_factory):
    need_flux_python()
    flux_instance.env = environment(flux_instance.env, tmp_path_factory.mktemp("commands"), rc=False)
    return flux_instance


@pytest.fixture
def handle(instance):
    import flux

    yield flux.Flux(instance.uri)
    instance.run("flux", "module", "remove", "-f", "ensemble")
    assert "ensemble" not in loaded(instance)


def loaded(instance) -> Any:
    return [line.split()[0] for line in instance.run("flux", "module", "list").stdout.splitlines()]


def status(handle) -> Any:
    return supervisor.service_status(handle, PATIENCE)


def test_load_serve_reload_unload(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    first = status(handle)
    assert first["host"] == "module"
    assert first["supervisor_pid"] is None
    assert "ensemble" in loaded(instance)
    instance.run("flux", "module", "reload", MODULE_FILE)
    second = status(handle)
    assert second["pid"] != first["pid"]
    instance.run("flux", "module", "remove", "ensemble")
    with pytest.raises(NoService):
        status(handle)
    gone(first["pid"], second["pid"])
    instance.run("flux", "run", "true")


def test_the_brokers_own_endpoints_are_the_brokers(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    assert "rx" in json.loads(instance.run("flux", "module", "stats", "ensemble").stdout)
    assert "ensemble.ping" in instance.run("flux", "ping", "--count=1", "ensemble").stdout
    instance.run("flux", "config", "reload")
    assert status(handle)["host"] == "module"


def test_quit_ends_the_module_and_not_the_instance(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    pid = supervisor.service_stop(handle, PATIENCE)["pid"]
    gone(pid)
    assert "ensemble" not in loaded(instance)
    instance.run("flux", "run", "true")


def test_one_service_whoever_hosts_it(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    found = supervisor.start_detached(instance.env, PATIENCE)
    assert (found["started"], found["host"]) == (False, "module")
    done = instance.run(*MAIN, check=False)
    assert done.returncode == supervisor.EXIT_REFUSED
    assert "a service already runs" in done.stderr
    assert instance.run("flux", "module", "load", MODULE_FILE, check=False).returncode != 0
    supervisor.service_stop(handle, PATIENCE)

    started = supervisor.start_detached(instance.env, PATIENCE)
    assert started["host"] == "process"
    done = instance.run("flux", "module", "load", MODULE_FILE, check=False)
    assert done.returncode != 0
    assert "exists" in done.stderr
    assert status(handle)["pid"] == started["pid"]
    supervisor.service_stop(handle, PATIENCE)
    gone(started["pid"], started["supervisor_pid"])


def test_arguments_are_refused_with_the_reason_in_the_log(instance, handle):
    done = instance.run("flux", "module", "load", MODULE_FILE, "speed=9", check=False)
    assert done.returncode != 0
    assert "takes no arguments, and was given: speed=9" in instance.run("flux", "dmesg").stdout
    instance.run("flux", "run", "true")


def test_a_guest_is_refused(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    env = {**instance.env, "FLUX_HANDLE_ROLEMASK": "0x2", "FLUX_HANDLE_USERID": "4242"}
    done = instance.run(*MAIN, "--status", env=env, check=False)
    assert done.returncode == 1
    assert "flux alloc" in done.stderr


def test_with_the_service_of_a_module_a_fault_inside_harms_nobody(instance, handle):
    instance.run("flux", "module", "load", MODULE_FILE)
    for payload in ("{", "[]", '{"id": 7}', '{"text": 7}'):
        for endpoint in ("submit", "status", "list", "nonsense"):
            future = handle.rpc(f"ensemble.{endpoint}", payload)
            with pytest.raises(OSError, match=r"."):
                future.wait_for(PATIENCE).get()
    assert status(handle)["host"] == "module"
    instance.run("flux", "run", "true")


# By Flux's own configuration, as installed


def test_load_by_name_and_by_modprobe(instance):
    import flux

    # The broker looks for modules along its own environment, so this takes an instance that was started with it.
    script = "flux module load ensemble && flux module remove ensemble && flux modprobe load ensemble && " + (
        "flux ping --count=1 ensemble && flux modprobe remove ensemble && ! flux ping --count=1 ensemble"
    )
    env = {name: value for name, value in instance.env.items() if name != "FLUX_URI"}
    done = subprocess.run(
        ["flux", "start", "sh", "-c", script],
        env=env,
        cwd=instance.folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "ensemble.ping" in done.stdout
    assert flux.Flux(instance.uri).attr_get("rank") == "0"


def test_the_commands_are_found_by_flux(instance):
    assert "usage" in instance.run("flux", "ensemble-service", "--help").stdout
    done = instance.run("flux", "ensemble-service", "--status", check=False)
    assert (done.returncode, "no service runs" in done.stderr) == (1, True)
    assert "0.1" in instance.run("flux", "ensemble", "version").stdout


def located(folder, instance, **env: str) -> subprocess.CompletedProcess:
    """What a program in `folder` gets from `ensemble_locate`, as the module does it."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import ensemble_locate as e; e.extend_path(); "
        "import ensemble; print(ensemble.__file__)"
    )
    base = {name: value for name, value in instance.env.items() if name != "ENSEMBLE_PYTHONPATH"}
    return subprocess.run(
        ["flux", "python", "-c", code, str(folder)], env={**base, **env}, cwd="/", capture_output=True, text=True
    )


def test_the_library_is_found_where_it_lies(instance, tmp_path):
    # A checkout.
    assert located(MODULE, instance).stdout.strip() == str(TOP / "ensemble" / "__init__.py")
    # An installation: reached through a link, with the library beside it.
    private, linked = tmp_path / "private", tmp_path / "linked"
    shutil.copytree(MODULE, private, ignore=shutil.ignore_patterns("__pycache__"))
    linked.mkdir()
    for file in private.iterdir():
        os.symlink(file, linked / file.name)
    done = located(linked, instance)
    assert "make install" in done.stderr
    assert "ENSEMBLE_PYTHONPATH" in done.stderr
    package = private / "lib" / "ensemble"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    assert located(linked, instance).stdout.strip() == str(package / "__init__.py")
    # What the environment names outranks both.
    other = tmp_path / "other" / "ensemble"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    done = located(linked, instance, ENSEMBLE_PYTHONPATH=str(tmp_path / "other"))
    assert done.stdout.strip() == str(other / "__init__.py")
