"""The word `packages`: what pip and npm say, and what of it goes inside."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.egress.conftest import Outside
from tests.egress.test_proxy import connect, get, status

from aegis.core.clock import ManualClock
from aegis.services.egress.packages import Packages, Sources

PIP = """:env:.index-url='https://user:s3cret@pypi.corp.test/simple'
global.extra-index-url='https://more.corp.test:8443/simple http://plain.corp.test/simple file:///opt/simple'
global.find-links='/opt/wheels https://links.corp.test/page'
global.index-url='https://overruled.corp.test/simple'
global.timeout='60'
"""
NPM = json.dumps({"registry": "http://127.0.0.1:4873/", "@corp:registry": "https://npm.corp.test/x/", "depth": None, "https-proxy": None})


def tools(tmp_path: Path, **outputs: str) -> dict[str, str]:
    """An environment whose PATH has these tools, each of which says what it is given to say."""
    for name, output in outputs.items():
        (tmp_path / f"{name}.out").write_text(output)
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "$@" >> "{tmp_path}/{name}.args"\n/usr/bin/env > "{tmp_path}/{name}.env"\npwd >> "{tmp_path}/{name}.env"\nexec /bin/cat "{tmp_path}/{name}.out"\n'
        )
        program.chmod(0o755)
    return {"PATH": str(tmp_path), "HOME": str(tmp_path), "ANTHROPIC_API_KEY": "k", "PIP_CONFIG_FILE": "/x", "npm_config_userconfig": "/y"}


async def ask(environ: dict[str, str]) -> Sources:
    return await Packages(environ, ManualClock()).sources()


async def test_what_the_tools_say(tmp_path: Path) -> None:
    told = await ask(tools(tmp_path, pip=PIP, npm=NPM))
    assert {str(place) for place in told.places} == {
        "pypi.corp.test:443", "more.corp.test:8443", "plain.corp.test:80", "links.corp.test:443", "127.0.0.1:4873", "npm.corp.test:443",
    }  # fmt: skip
    assert told.environment == {
        "PIP_INDEX_URL": "https://pypi.corp.test/simple",
        "UV_INDEX_URL": "https://pypi.corp.test/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.corp.test:8443/simple http://plain.corp.test/simple",
        "UV_EXTRA_INDEX_URL": "https://more.corp.test:8443/simple http://plain.corp.test/simple",
        "npm_config_registry": "http://127.0.0.1:4873/",
    }
    assert "s3cret" not in str(told)
    assert any("pypi.corp.test" in warning and "password" in warning for warning in told.warnings)
    assert (tmp_path / "pip.args").read_text() == "config list\n"
    seen = (tmp_path / "pip.env").read_text()
    assert "ANTHROPIC_API_KEY" not in seen
    assert "PIP_CONFIG_FILE=/x" in seen
    assert seen.endswith("/\n"), "not in anybody's project"
    assert "npm_config_userconfig=/y" in (tmp_path / "npm.env").read_text()


async def test_without_tools_nothing_is_meant(tmp_path: Path) -> None:
    told = await ask({"PATH": str(tmp_path)})
    assert told.places == frozenset()
    assert any("neither pip nor npm" in warning for warning in told.warnings)


async def test_a_pip_without_settings_is_asked_for_its_own_index(tmp_path: Path) -> None:
    own = tmp_path / "site" / "pip" / "_internal" / "models"
    own.mkdir(parents=True)
    for folder in (own, own.parent, own.parent.parent):
        (folder / "__init__.py").touch()
    (own / "index.py").write_text("class PyPI:\n    simple_url = 'https://own.test/simple'\n    file_storage_domain = 'files.own.test'\n")
    environ = tools(tmp_path, pip=f"pip 23.2.1 from {tmp_path}/site/pip (python 3.11)\nglobal.find-links='https://links.test'\n")
    told = await ask(environ)
    assert {str(place) for place in told.places} == {"own.test:443", "files.own.test:443", "links.test:443"}
    assert told.environment["PIP_INDEX_URL"] == "https://own.test/simple"


@pytest.mark.parametrize(
    ("pip", "npm"),
    [
        ("", "{}"),
        ("nonsense\n=\nglobal.index-url=\nglobal.index-url=__import__('os')\n", "["),
        ("global.index-url='http://[bad'\n", '{"registry": "http://a b/", "@x:registry": 7}'),
    ],
)
async def test_tools_that_say_nothing_of_use(tmp_path: Path, pip: str, npm: str) -> None:
    told = await ask(tools(tmp_path, pip=pip, npm=npm))
    assert all(place.port == 443 for place in told.places)


async def test_a_tool_that_fails(tmp_path: Path) -> None:
    environ = tools(tmp_path, pip=PIP)
    (tmp_path / "pip").write_text("#!/bin/sh\nexit 1\n")
    assert not (await ask(environ)).places
    (tmp_path / "pip").write_text("no program")
    assert not (await ask(environ)).places


async def test_they_are_asked_again_after_a_minute(tmp_path: Path) -> None:
    clock = ManualClock()
    packages = Packages(tools(tmp_path, pip=PIP, npm=NPM), clock)
    for _ in range(3):
        await packages.sources()
    await clock.advance(61)
    await packages.sources()
    assert (tmp_path / "pip.args").read_text().count("config") == 2


async def test_a_proxy_of_the_machine_is_told_of(tmp_path: Path) -> None:
    told = await ask(tools(tmp_path, pip="global.proxy='http://proxy.corp.test'\n", npm='{"proxy": "http://x"}'))
    assert len(told.warnings) == 2


def served(outside: Outside, tmp_path: Path, pip: str, npm: str = "{}") -> None:
    outside.packages = Packages(tools(tmp_path, pip=pip, npm=npm), outside.clock)
    outside.make()


async def test_the_indexes_are_reached_and_nothing_beside_them(outside: Outside, tmp_path: Path) -> None:
    """An index inside is reached because the person said `packages` and the machine itself is set to use it."""
    site = await outside.site("index.test")
    served(outside, tmp_path, f"global.index-url='http://index.test:{site.port}/simple'\n")
    assert status(await outside.ask(get(f"http://index.test:{site.port}/simple/"))) == 403
    outside.allow("packages")
    assert status(await outside.ask(get(f"http://index.test:{site.port}/simple/", None, "Connection: close"))) == 200
    assert status(await outside.ask(get(f"http://index.test:{site.port + 1}/"))) == 403
    assert status(await outside.ask(connect("other.test:443"))) == 403
    outside.names["index.test"] = ["169.254.169.254"]
    assert status(await outside.ask(get(f"http://index.test:{site.port}/simple/"))) == 403


async def test_the_environment_inside(outside: Outside, tmp_path: Path) -> None:
    served(outside, tmp_path, "global.index-url='http://u:p@localhost:3141/simple'\nglobal.trusted-host='index.test'\n", NPM)
    launch = outside.instance.launch
    assert await outside.egress.environment(launch) == {}
    outside.allow("api.example.com:443", "127.0.0.1:9000")
    assert await outside.egress.environment(launch) == {"AEGIS_EGRESS": "1", "AEGIS_EGRESS_TO": "127.0.0.1:9000"}
    outside.allow("packages", "127.0.0.1:9000")
    launch.env = {"npm_config_registry": "https://mine.test/"}
    told = await outside.egress.environment(launch)
    assert told["PIP_INDEX_URL"] == "http://127.0.0.1:3141/simple"
    assert told["PIP_TRUSTED_HOST"] == "index.test"
    assert told["AEGIS_EGRESS_TO"] == "127.0.0.1:3141,127.0.0.1:4873,127.0.0.1:9000"
    assert "npm_config_registry" not in told
    assert len(await outside.egress.warnings(outside.instance)) == 1


async def test_this_machines_own_tools_can_be_asked(tmp_path: Path) -> None:
    """Whatever they say here: it can be read, and being asked they leave nothing in anybody's home."""
    told = await Packages({"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, ManualClock()).sources()
    assert all("@" not in value for value in told.environment.values())
    assert not list(tmp_path.iterdir())
