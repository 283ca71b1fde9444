# SPDX-License-Identifier: MIT
"""`make install` and `make uninstall`: what lands where, that it works there, and that all of it goes again."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

import pytest

TOP = Path(__file__).resolve().parents[2]
SCRIPT = TOP / "etc" / "install"


def call(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PREFIX": "", "DESTDIR": "", **environment}
    return subprocess.run(
        ["sh", str(SCRIPT), *args], capture_output=True, text=True, env=env, timeout=500, check=False
    )  # fmt: skip


def planned(**environment: str) -> Dict[str, List[str]]:
    """Kind (link, script, data, folder) to places, of what would be installed."""
    done = call("plan", **environment)
    assert done.returncode == 0, done.stderr
    plan: Dict[str, List[str]] = {}
    for line in done.stdout.splitlines():
        kind, _, place = line.partition(" ")
        plan.setdefault(kind, []).append(place)
    return plan


def of_flux(variable: str) -> str:
    done = subprocess.run(
        ["pkg-config", f"--variable={variable}", "flux-core"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


needs_pkg_config = pytest.mark.skipif(
    not shutil.which("pkg-config") or subprocess.call(["pkg-config", "--exists", "flux-core"]) != 0,
    reason="pkg-config does not know flux-core",
)


def test_prefix_puts_all_below_it() -> None:
    plan = planned(PREFIX="/opt/e", DESTDIR="/stage")
    assert plan["folder"] == ["/stage/opt/e/lib/flux/ensemble"]
    assert set(plan["link"]) == {
        "/stage/opt/e/lib/flux/modules/ensemble.py",
        "/stage/opt/e/libexec/flux/cmd/flux-ensemble.py",
        "/stage/opt/e/libexec/flux/cmd/flux-ensemble-service.py",
    }
    assert "/stage/opt/e/share/man/man1/flux-ensemble.1" in plan["data"]
    places = [place for kind in plan.values() for place in kind]
    assert all(place.startswith("/stage/opt/e/") for place in places)


def test_every_rc_script_and_modprobe_file_is_planned() -> None:
    plan = planned(PREFIX="/p")
    for level in ("rc1.d", "rc3.d"):
        ours = sorted(f"/p/etc/flux/{level}/{path.name}" for path in (TOP / "etc" / level).iterdir())
        assert ours == sorted(place for place in plan["script"] if f"/{level}/" in place)
        assert ours
    ours = sorted(f"/p/etc/flux/modprobe/modprobe.d/{path.name}" for path in (TOP / "etc/modprobe.d").glob("*.toml"))
    assert ours == sorted(place for place in plan["data"] if place.endswith(".toml"))
    assert ours


@needs_pkg_config
def test_without_prefix_flux_says_where() -> None:
    plan = planned()
    assert f"{of_flux('fluxmoddir')}/ensemble.py" in plan["link"]
    assert f"{of_flux('fluxcmddir')}/flux-ensemble.py" in plan["link"]
    assert f"{of_flux('mandir')}/man1/flux-ensemble.1" in plan["data"]
    assert all(place.startswith(of_flux("fluxconfdir") + "/rc") for place in plan["script"])


def test_a_relative_prefix_is_refused() -> None:
    done = call("install", sys.executable, PREFIX="opt")
    assert done.returncode == 1
    assert done.stderr == "make install: PREFIX must be an absolute path, not 'opt'\n"


def test_uninstall_of_nothing_says_so(tmp_path: Path) -> None:
    done = call("uninstall", PREFIX="/x", DESTDIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"make uninstall: nothing is installed in {tmp_path}/x/lib/flux/ensemble\n"


def test_install_needs_a_flux(tmp_path: Path) -> None:
    for name in ("sh", "dirname", "pwd"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    done = call("install", sys.executable, PREFIX="/x", DESTDIR=str(tmp_path / "stage"), PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no `flux` in PATH" in done.stderr
    assert not (tmp_path / "stage").exists()


def tree(top: Path) -> List[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


@pytest.mark.flux
@pytest.mark.network
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_installed_it_works_and_goes_again(tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "-d", str(tmp_path / "ask"), "rich"]
    if subprocess.call(asked, stderr=subprocess.DEVNULL) != 0:
        pytest.skip("no package registry answers pip")
    stage = tmp_path / "a stage"
    # Somebody else's file, which must stay.
    other = stage / "p/etc/flux/rc1.d/00-other"
    other.parent.mkdir(parents=True)
    other.write_text("")
    before = tree(stage)

    for _ in range(2):  # again on top of itself
        done = call("install", sys.executable, PREFIX="/p", DESTDIR=str(stage))
        assert done.returncode == 0, done.stderr
    private = stage / "p/lib/flux/ensemble"
    plan = planned(PREFIX="/p", DESTDIR=str(stage))
    ours = {place for kind in ("link", "script", "data") for place in plan[kind]}
    there = {str(path) for path in stage.rglob("*") if not path.is_dir() and private not in path.parents}
    assert there == ours | {str(other)}
    for place in plan["link"]:
        assert Path(place).resolve().is_file()
    for place in plan["script"]:
        assert os.access(place, os.X_OK)
    assert (private / "lib/ensemble/examples/hello-world.yaml").is_file()
    assert not (private / "lib/bin").exists()

    # Flux's own Python, with none of this test's.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["FLUX_EXEC_PATH_PREPEND"] = str(stage / "p/libexec/flux/cmd")
    answer = subprocess.run(
        ["flux", "ensemble", "version"], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"\b0\.\d+\.\d+", answer.stdout)
    where = subprocess.run(
        ["flux", "python", "-c", "import runpy, sys\n"
         f"runpy.run_path({str(stage / 'p/libexec/flux/cmd/flux-ensemble.py')!r})\n"
         "import ensemble; print(ensemble.__file__)"],
        capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert where.stdout.strip() == str(private / "lib/ensemble/__init__.py"), where.stderr

    # The rc scripts bring the service up before the initial program, in both ways of hosting it.
    env["FLUX_MODULE_PATH_PREPEND"] = str(stage / "p/lib/flux/modules")
    env["FLUX_RC_EXTRA"] = str(stage / "p/etc/flux")
    env["FLUX_MODPROBE_PATH_APPEND"] = str(stage / "p/etc/flux/modprobe")
    for host in ("process", "module"):
        started = subprocess.run(
            ["flux", "start", f"--conf=ensemble.host={host}", "flux", "ensemble", "service", "status", "--json"],
            capture_output=True, text=True, env=env, cwd=tmp_path, timeout=100, check=False,
        )  # fmt: skip
        assert started.returncode == 0, started.stderr
        assert json.loads(started.stdout)["host"] == host

    done = call("uninstall", PREFIX="/p", DESTDIR=str(stage))
    assert done.returncode == 0, done.stderr
    assert tree(stage) == before
