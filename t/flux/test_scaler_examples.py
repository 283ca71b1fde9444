# SPDX-License-Identifier: MIT
"""The example that grows, and the predecessor's file with a scaler of the site, in an instance of four brokers."""

# Without Flux nothing of this can be imported: the skip has to come first.
# ruff: noqa: E402

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

pytestmark = [pytest.mark.flux, pytest.mark.timeout(300)]
try:
    import flux  # noqa: F401

    from t.flux.real_service import RealService, serving
except ImportError as exc:
    pytest.skip(f"Flux tests: the bindings do not load ({exc})", allow_module_level=True)

from ensemble.members.flux_nodes import REASON
from t.flux_instance import FluxInstance

TOP = Path(__file__).resolve().parents[2]
FLUX_SIZE = 4
FLUX_OPTIONS = ["--conf=ensemble.scaler.name=drain", "--conf=ensemble.scaler.max=4"]


@pytest.fixture
def service(flux_instance: FluxInstance) -> Iterator[RealService]:
    with serving(flux_instance) as made:
        yield made


def run(service: RealService, path: Path) -> List[Dict[str, Any]]:
    done = service.instance.run("flux", "ensemble", "run", str(path), "--json", check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [record for record in records if record["type"] == "error"]
    return records


def texts(records: List[Dict[str, Any]], type: str) -> List[str]:
    return [record["text"] for record in records if record["type"] == type]


def test_the_example(service: RealService) -> None:
    records = run(service, TOP / "examples" / "grow.yaml")
    assert texts(records, "log") == ["there is 1 node left", "there are 3 nodes now"]
    told = texts(records, "action")
    assert "shrink from 4 to 1 node begins" in told
    assert "grow is done: 3 nodes are up" in told
    assert service.ask("list")["ensembles"][-1]["state"] == "complete"


def test_the_predecessors_file_grows_by_the_scaler_of_the_site(service: RealService) -> None:
    """Its jobs need four nodes, one of which was taken; after a while of waiting it asks for one more, and they run."""
    instance = service.instance
    instance.run("flux", "resource", "undrain", "0-3", check=False)
    for rank in "123":
        instance.run("flux", "resource", "undrain", rank, check=False)
    instance.run("flux", "resource", "drain", "3", f"{REASON} of somebody")
    records = run(service, TOP / "t" / "unit" / "data" / "predecessor-grow.yaml")
    assert "grow from 3 to 4 nodes begins" in texts(records, "action")
    assert instance.run("flux", "resource", "drain", "-no", "{ranks}").stdout.strip() == ""
    assert service.ask("list")["ensembles"][-1]["jobs"]["success"] == 2


def test_what_the_site_has_configured_is_an_ability(service: RealService) -> None:
    assert {"grow", "shrink", "scaler"} <= set(service.ask("stats")["capabilities"])


def test_a_strict_file_may_rely_on_the_scaler_of_the_site(service: RealService, tmp_path: Path) -> None:
    path = tmp_path / "strict.yaml"
    path.write_text(
        "strict: true\njobs: [{name: a, command: x}]\n"
        "rules: [{trigger: start, actions: [{name: submit, label: a}, {name: grow}]}]\n"
    )
    done = service.instance.run("flux", "ensemble", "validate", str(path), check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_scaler_that_is_not_installed_is_refused_with_its_file(service: RealService) -> None:
    text = "scaler: {name: cloudy}\njobs: [{name: a, command: x}]\nrules: [{trigger: start, action: {name: grow}}]\n"
    with pytest.raises(OSError, match=r"it.yaml:1:16: (?s:.)*no scaler is called 'cloudy' here"):
        service.submit(text)
