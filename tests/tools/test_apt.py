# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/lib/apt.sh: finding the machine's mirror, refusing what is not
signed.  scripts/newest-qemu: which source package is the newest to be had."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

LIB = Path(__file__).resolve().parent.parent.parent / 'scripts/lib/apt.sh'


def apt(tmp, command):
    """Run a command of the library with its configuration below tmp."""
    return subprocess.run(
        ['bash', '-c', f'set -eu; . "{LIB}"; {command}'], cwd=tmp, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={**os.environ, 'APT_ETC': str(tmp / 'etc'),
             'PROJECT_CACHE': str(tmp / 'cache')})


def sources(tmp, name, text):
    """Write a list of sources for the release that this machine runs."""
    path = tmp / 'etc' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    codename = apt(tmp, 'apt_codename').stdout.strip()
    path.write_text(text.replace('RELEASE', codename))


ONE_LINE = '''\
# deb http://comment.invalid/debian RELEASE main
deb cdrom:[Debian]/ RELEASE-security main
deb http://security.invalid/debian-security RELEASE-security main
deb-src http://source.invalid/debian RELEASE main
deb http://contrib.invalid/debian RELEASE contrib
deb [arch=amd64 signed-by=/a.gpg] https://mirror.invalid/debian/ RELEASE main # x
deb http://second.invalid/debian RELEASE main
'''
DEB822 = '''\
Types: deb
URIs: http://security.invalid/debian-security
Suites: RELEASE-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.invalid/debian
Suites: RELEASE
Components: main

Types: deb deb-src
# http://comment.invalid/debian
URIs:
 https://mirror.invalid/debian/
 http://second.invalid/debian
Suites: RELEASE-updates
 RELEASE
Components: contrib main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 Suites: nonsense
'''


@pytest.mark.parametrize('name, text', [
    ('sources.list', ONE_LINE),
    ('sources.list.d/any.list', ONE_LINE),
    ('sources.list.d/debian.sources', DEB822),
], ids=['one-line', 'one-line-parts', 'deb822'])
def test_mirror(tmp_path, name, text):
    sources(tmp_path, name, text)
    assert apt(tmp_path, 'apt_mirror').stdout == 'https://mirror.invalid/debian\n'


def test_no_mirror(tmp_path):
    run = apt(tmp_path, 'apt_in trixie apt-cache policy')
    assert run.returncode and 'no entry for Debian' in run.stdout


def test_unsigned_is_refused(tmp_path):
    mirror = tmp_path / 'mirror'
    index = mirror / 'dists/trixie/main/source/Sources'
    index.parent.mkdir(parents=True)
    dsc = mirror / 'qemu_1.dsc'
    dsc.write_text('Format: 1.0\nSource: qemu\nVersion: 1\n')
    digest = hashlib.sha256(dsc.read_bytes()).hexdigest()
    index.write_text('Package: qemu\nFormat: 1.0\nVersion: 1\nDirectory: .\n'
                     'Checksums-Sha256:\n'
                     f' {digest} {dsc.stat().st_size} qemu_1.dsc\n')
    digest = hashlib.sha256(index.read_bytes()).hexdigest()
    (mirror / 'dists/trixie/Release').write_text(
        'Codename: trixie\nArchitectures: amd64\nComponents: main\nSHA256:\n'
        f' {digest} {index.stat().st_size} main/source/Sources\n')
    sources(tmp_path, 'sources.list', f'deb file:{mirror} RELEASE main\n')
    run = apt(tmp_path, 'apt_in trixie apt-get source --download-only qemu')
    assert run.returncode and 'is not signed' in run.stdout
    assert not (tmp_path / 'qemu_1.dsc').exists()


APT_CACHE = '''\
#!/bin/sh
printf 'Package: qemu\\nVersion: 1:%s\\n' 10.9.0+ds-1 10.10.0+ds-1 10.10.0+ds-2
'''
APT_GET = '''\
#!/bin/sh
for last; do :; done
version=${last#*:}
case $last in
update) ;;
qemu=1:*) grep -qxF "$version" "$SERVED" && : > "qemu_$version.dsc" ;;
*) exit 100 ;;
esac
'''


def newest(tmp, served, **env):
    """Run the script with a Debian that serves these of three packages."""
    sources(tmp, 'sources.list', ONE_LINE)
    for name, text in (('apt-cache', APT_CACHE), ('apt-get', APT_GET)):
        path = tmp / 'bin' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp / 'served').write_text(served)
    return subprocess.run(
        [LIB.parent.parent / 'newest-qemu'], text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, 'APT_ETC': str(tmp / 'etc'),
             'PROJECT_CACHE': str(tmp / 'cache'), 'QEMU_SOURCE': '',
             'SERVED': str(tmp / 'served'),
             'PATH': f'{tmp}/bin:{os.environ["PATH"]}', **env})


def test_newest_that_is_served(tmp_path):
    run = newest(tmp_path, '10.9.0+ds-1\n10.10.0+ds-1\n')
    assert run.stdout.endswith('/qemu_10.10.0+ds-1.dsc\n')
    assert Path(run.stdout.strip()).exists()
    assert 'lists QEMU 1:10.10.0+ds-2, but does not serve it' in run.stderr
    # What has been fetched is there, also if it is not served any more
    assert newest(tmp_path, '').stdout == run.stdout


def test_nothing_is_served(tmp_path):
    run = newest(tmp_path, '')
    assert run.returncode == 1 and not run.stdout
    assert 'nothing is tested' in run.stderr


def test_source_at_hand(tmp_path):
    run = newest(tmp_path, '', QEMU_SOURCE='/some/where')
    assert run.stdout == '/some/where\n' and not run.returncode
