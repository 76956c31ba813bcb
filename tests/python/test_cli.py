"""The ``octavo`` command: ``info``, and what is wrong usage."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from octavo import backend, cli, info


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "octavo", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_info_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] == torch.__version__
    assert found["isa"]["chosen"] == backend.current()
    assert found["isa"]["runnable"] == backend.supported()
    assert {*found["isa"]["runnable"], *found["isa"]["not runnable"]} == {*backend.built()}
    assert found["cpu"]["features"].keys() == backend.cpu_features().keys()
    assert set(found["cpu"]["features"].values()) <= {"yes", "no", "emulated"}
    assert found["threads"] == backend.parallel_info()


@pytest.mark.kernel
def test_info_names_the_kernels_of_the_isa_in_use(isa: str) -> None:
    kernels = info.collect()["kernels"]
    assert set(kernels["all"]) == set(backend.kernels(isa))
    for layer in ("linear, 1 x 64 to 64", "convolution 3x3", "convolution 3x3, depthwise"):
        assert kernels["chosen"][layer] in kernels["all"]


@pytest.mark.parametrize("rich", [True, False])
def test_info_as_text(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec

    def without_rich(name: str) -> Any:
        return None if name == "rich" and not rich else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_rich)
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert torch.__version__ in text
    for name in [*backend.cpu_features(), *backend.built()]:
        assert name in text


def test_module_runs_as_a_program() -> None:
    done = _run("info", "--json", OCTAVO_ISA="scalar")
    assert done.returncode == 0, done.stderr
    isa = json.loads(done.stdout)["isa"]
    assert (isa["chosen"], isa["forced"]) == ("scalar", "scalar")


def test_an_unknown_isa_is_named() -> None:
    done = _run("info", OCTAVO_ISA="avx1024")
    assert done.returncode == 2
    assert "avx1024" in done.stderr
    assert "Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out.startswith("octavo ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--threads", "0"], "0 is not a positive number"),
        (["demo", "--threads", "many"], "invalid"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert message in capsys.readouterr().err


def test_demo_names_missing_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    error = capsys.readouterr().err
    for word in ("scikit-learn", "rich", "safetensors", 'pip install "octavo[demo]"'):
        assert word in error
