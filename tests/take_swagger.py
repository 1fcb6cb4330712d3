"""Take the files of Swagger UI from npm: `make swagger SWAGGER=5.35.0`. Needs npm and its registry.

The files of the package swagger-ui-dist that our page needs go to nipap/rest/swagger_ui unchanged, with the licences.
source.json there holds the package, its version, its hash in npm, and the SHA-256 of each file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = 'swagger-ui-dist'
TARGET = Path(__file__).resolve().parent.parent / 'nipap' / 'rest' / 'swagger_ui'
SOURCE = 'source.json'
TAKEN = (
    *('swagger-ui.css', 'swagger-ui-bundle.js', 'favicon-32x32.png'),
    *('LICENSE', 'NOTICE', 'swagger-ui-bundle.js.LICENSE.txt'),
)


def npm(*args: str, cwd: str) -> str:
    """Return the output of npm."""
    done = subprocess.run(['npm', *args], cwd=cwd, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main(version: str) -> int:
    """Replace the files by those of a version; return the exit code."""
    with tempfile.TemporaryDirectory(prefix='nipap-swagger-') as directory:
        name = f'{PACKAGE}@{version}'
        integrity = npm('view', name, 'dist.integrity', cwd=directory)
        archive = Path(directory, npm('pack', name, '--silent', cwd=directory))
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if integrity != f'sha512-{found}':
            print(f'{archive.name} has the hash sha512-{found}, npm says {integrity}', file=sys.stderr)
            return 1
        TARGET.mkdir(exist_ok=True)
        for former in TARGET.iterdir():
            former.unlink()
        with tarfile.open(archive) as tar:
            for member in TAKEN:
                content = tar.extractfile(f'package/{member}')
                if content is None:
                    raise FileNotFoundError(member)
                (TARGET / member).write_bytes(content.read())
    hashes = {member: hashlib.sha256((TARGET / member).read_bytes()).hexdigest() for member in sorted(TAKEN)}
    source = {
        'package': PACKAGE,
        'registry': 'npm',
        'version': version,
        'licence': 'Apache-2.0',
        'integrity': integrity,
        'sha256': hashes,
    }
    (TARGET / SOURCE).write_text(json.dumps(source, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: take_swagger.py VERSION')
    sys.exit(main(sys.argv[1]))
