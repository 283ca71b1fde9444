# SPDX-License-Identifier: MIT
"""An instance of which only rank 0 is up at first, and a script that starts and stops the brokers of the others.

Brokers find each other by a configuration, since those that are to come later can take no part in the bootstrap of PMI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List

import flux

from t.flux_instance import FluxInstance, running

#: what a site would write: it is told a size and ranks, and notes what it was told
SCRIPT = """
import json, os, subprocess, sys, time
import flux
from flux.idset import IDset
told = {name: value for name, value in os.environ.items() if name.startswith("ENSEMBLE_")}
with open(os.environ["NOTES"], "a") as file:
    file.write(json.dumps({**told, "pid": os.getpid()}) + "\\n")
how = open(os.environ["NOTES"] + ".how").read() if os.path.exists(os.environ["NOTES"] + ".how") else ""
if how == "fail":
    print("first line")
    print("there are no nodes today")
    sys.exit(3)
if how == "hang":
    time.sleep(1000)
if how == "never":
    sys.exit(0)
if how == "later" and "LATER" not in os.environ:
    # asked for: the nodes go in their own time
    environ = {**os.environ, "LATER": "1", "NOTES": os.environ["NOTES"] + ".later"}
    subprocess.Popen([sys.executable, sys.argv[0]], env=environ, start_new_session=True)
    sys.exit(0)
if "LATER" in os.environ:
    time.sleep(2)
start = flux.Flux(os.environ["FLUX_START_URI"])
ranks = list(IDset(told["ENSEMBLE_RANKS"]))
many = int(told["ENSEMBLE_SIZE_WANTED"]) - int(told["ENSEMBLE_SIZE_CURRENT"])
if told["ENSEMBLE_ACTION"] == "grow":
    for rank in ranks[:many]:
        start.rpc("start.run", {"rank": rank}).get()
else:
    for rank in ranks:
        start.rpc("start.kill", {"rank": rank, "signum": 15}).get()
        start.rpc("start.wait", {"rank": rank}).get()
"""


class Growing:
    """The instance, and what a scaler needs to know of it."""

    def __init__(self, instance: FluxInstance, folder: Path) -> None:
        self.instance = instance
        self.folder = folder
        self.handle = flux.Flux(instance.uri)
        self.notes = folder / "notes"
        self.script = folder / "scale.py"
        self.script.write_text(SCRIPT)
        pid = self.handle.attr_get("broker.pid")
        environ = dict(
            one.split(b"=", 1) for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in one
        )
        self.environment = {**instance.env, "NOTES": str(self.notes)}
        start = self.handle.attr_get("local-uri").rsplit("/", 2)[0]
        found = environ.get(b"FLUX_START_URI", b"").decode()
        self.environment["FLUX_START_URI"] = found or f"{start}/start"

    @property
    def command(self) -> List[str]:
        return ["flux", "python", str(self.script)]

    def told(self) -> List[Dict[str, Any]]:
        """What the script was told, each time."""
        import json

        text = self.notes.read_text() if self.notes.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def how(self, word: str) -> None:
        """`fail`, `hang`, `later` (asks, and it happens 2 s later), `never` (says yes and does nothing), or '' for what a script should do."""
        Path(f"{self.notes}.how").write_text(word)

    def online(self) -> str:
        return str(self.handle.rpc("resource.status", {}, nodeid=0).get()["online"])


@contextlib.contextmanager
def growing(size: int = 4) -> Iterator[Growing]:
    """For the body of a `with`. Skips the test where Flux is not found."""
    folder = Path(tempfile.mkdtemp(prefix="ens-grow-"))
    try:
        if shutil.which("flux") is not None:
            _configure(folder, size)
        options = [
            f"--test-hosts=fake[0-{size - 1}]",
            "--test-start-mode=leader",
            "--test-exit-mode=leader",
            f"--config-path={folder / 'conf.d'}",
            "-Sbroker.quorum=1",
            "-Stbon.topo=kary:0",
        ]
        with running(size, options) as instance:
            yield Growing(instance, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, size: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}

    def flux_command(*words: str) -> str:
        return subprocess.run(["flux", *words], check=True, capture_output=True, text=True, env=environment).stdout

    flux_command("keygen", "--name=test", str(folder / "cert"))
    R = flux_command("R", "encode", f"--ranks=0-{size - 1}", "--cores=0-1", f"--hosts=fake[0-{size - 1}]")
    (folder / "R").write_text(R)
    (folder / "conf.d").mkdir()
    hosts = []
    for rank in range(size):
        address = f"ipc://{folder}/tbon-{rank}"
        hosts.append(f'{{host = "fake{rank}", bind = "{address}", connect = "{address}"}},')
    lines = [
        "[bootstrap]",
        f'curve_cert = "{folder}/cert"',
        "hosts = [",
        *hosts,
        "]",
        "[resource]",
        "noverify = true",
        f'path = "{folder}/R"',
    ]
    (folder / "conf.d" / "test.toml").write_text("\n".join(lines) + "\n")
