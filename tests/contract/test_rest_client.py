"""A client that is generated from the description of the REST interface, used as its users would."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from contract_faces import USERS, basic
from flask import Flask

from nipap.access.authentication import Authenticator
from nipap.backend import Backend
from nipap.rest import api as flask_rest
from nipap.rest.objects import encode
from nipap.rest.openapi import describe

pytestmark = pytest.mark.slow

NAME = 'generated_nipap_client'


@pytest.fixture(scope='module')
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the name of a package that was generated without a warning."""
    place = tmp_path_factory.mktemp('client')
    (place / 'openapi.json').write_bytes(encode(describe('/api/v1')))
    (place / 'config.yaml').write_text('post_hooks: []\n')
    command = [sys.executable, '-c', 'from openapi_python_client.cli import app; app()', 'generate', '--meta', 'none']
    options = ['--path', 'openapi.json', '--config', 'config.yaml', '--output-path', NAME, '--fail-on-warning']
    done = subprocess.run([*command, *options], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(place))
    yield NAME
    sys.path.remove(str(place))
    for name in [name for name in sys.modules if name.partition('.')[0] == NAME]:
        del sys.modules[name]


class Calls:
    """The functions and classes of the generated package."""

    def __init__(self, package: str, transport: httpx.BaseTransport) -> None:
        self._package = package
        self.models: Any = importlib.import_module(f'{package}.models')
        self._client = importlib.import_module(f'{package}.client').Client(
            base_url='http://test/api/v1',
            headers={'Authorization': basic('alice', USERS['alice'][0])},
            httpx_args={'transport': transport},
        )

    def __call__(self, tag: str, name: str, *args: Any, **members: Any) -> Any:
        module = importlib.import_module(f'{self._package}.api.{tag}.{name}')
        return module.sync_detailed(*args, client=self._client, **members).parsed


@pytest.fixture
def call(generated: str, backend: Backend, sound: None, authenticator: Authenticator) -> Calls:
    app = Flask('test', static_folder=None)
    flask_rest.add_to(app, backend, authenticator)
    return Calls(generated, httpx.WSGITransport(app=app))


def test_a_generated_client(call: Calls) -> None:
    models = call.models
    vrf = call('vrfs', 'add_vrf', body=models.VrfNew(rt='65000:1', name='customer'))
    assert (vrf.rt, vrf.description, vrf.tags) == ('65000:1', None, [])
    pool = call(
        'pools',
        'add_pool',
        body=models.PoolNew.from_dict({'name': 'links', 'description': 'Links', 'default_type': 'assignment'}),
    )
    block = call(
        'prefixes',
        'add_prefix',
        body=models.PrefixNew.from_dict(
            {'prefix': '192.0.2.0/24', 'type': 'reservation', 'description': 'd', 'vrf_id': vrf.id, 'pool_id': pool.id}
        ),
    )
    assert (block.prefix, block.total_addresses, block.type_) == ('192.0.2.0/24', '256', 'reservation')
    assert block.added.utcoffset().total_seconds() == 0
    asked = models.PoolAllocation.from_dict({'family': 4, 'prefix_length': 31, 'count': 3, 'description': 'link'})
    links = call('pools', 'allocate_from_pool', pool.id, body=asked).result
    assert [link.prefix for link in links] == ['192.0.2.0/31', '192.0.2.2/31', '192.0.2.4/31']

    found, after = [], ''
    while after is not None:
        page = call('prefixes', 'list_prefix', limit=2, after=after, vrf_id=vrf.id)
        found += [prefix.prefix for prefix in page.result]
        after = page.after
    assert found == [block.prefix, *(link.prefix for link in links)]

    edited = call('prefixes', 'edit_prefix', links[0].id, body=models.PrefixAttr(vlan=7, comment='c'))
    assert (edited.vlan, edited.comment, edited.description) == (7, 'c', 'link')
    assert [one.id for one in call('prefixes', 'list_prefix', vlan=7).result] == [edited.id]
    assert call('prefixes', 'remove_prefix', edited.id) is None
    problem = call('prefixes', 'get_prefix', edited.id)
    assert isinstance(problem, models.Problem)
    assert (problem.status, problem.code) == (404, 1300)
    twice = call('vrfs', 'add_vrf', body=models.VrfNew(rt='65000:1', name='other'))
    assert isinstance(twice, models.Problem)
    assert (twice.status, twice.code) == (409, 1400)
