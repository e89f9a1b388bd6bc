# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/install, on a QEMU of one program and one man page.

What it installs, where, what it leaves alone, and what it removes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
MESON = '/usr/bin/meson' if os.path.exists('/usr/bin/meson') else 'meson'
LIST = 'share/doc/virtio-blk-cancel/installed'
FILES = {'bin/qemu-img', 'bin/blk-cancel-timeline', 'share/man/man1/qemu.1',
         'share/qemu/keymaps/de', LIST}

PROJECT = '''\
project('qemu')
custom_target('qemu-img', output: 'qemu-img', input: 'program.sh',
              command: ['cp', '@INPUT@', '@OUTPUT@'],
              install: true, install_dir: get_option('bindir'))
custom_target('a test', output: 'test-coroutine', command: ['false'],
              build_by_default: false)
custom_target('man page', output: 'qemu.1', command: ['touch', '@OUTPUT@'],
              install: true, install_dir: get_option('mandir') / 'man1',
              build_by_default: false)
install_data('de', install_dir: get_option('datadir') / 'qemu/keymaps')
'''


class Rig:
    """A build directory, and a place to install to."""

    def __init__(self, tmp, prefix='/usr/local'):
        self.tmp, self.build, self.out = tmp, tmp / 'build', tmp / 'out'
        source = tmp / 'src'
        source.mkdir()
        (source / 'meson.build').write_text(PROJECT)
        (source / 'de').write_text('keys\n')
        self.program = source / 'program.sh'
        self.program.write_text('#!/bin/sh\necho old\n')
        self.program.chmod(0o755)
        subprocess.run([MESON, 'setup', f'--prefix={prefix}',
                        self.build / 'qemu', source], check=True,
                       stdout=subprocess.DEVNULL)

    def run(self, *options, ok=True):
        """Run scripts/install; returns what it prints."""
        run = subprocess.run(
            [REPO / 'scripts/install', '--build-dir', self.build.name,
             *options],
            cwd=self.tmp, text=True, check=False, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        assert (run.returncode == 0) == ok, run.stdout
        return run.stdout

    def found(self, root):
        """All files below a directory."""
        return {str(p.relative_to(root)) for p in root.rglob('*')
                if not p.is_dir()}


@pytest.fixture(name='rig')
def fixture_rig(tmp_path):
    """A rig in a directory of its own."""
    return Rig(tmp_path)


def test_below_destdir(rig):
    rig.run(f'--destdir={rig.out}')
    root = rig.out / 'usr/local'
    assert rig.found(rig.out) == {f'usr/local/{name}' for name in FILES}
    assert os.access(root / 'bin/qemu-img', os.X_OK)
    # As for the machine that the package is for
    assert str(rig.out) not in (root / LIST).read_text()


def test_another_prefix_and_back(rig):
    rig.run(f'--prefix={rig.out}/opt')
    assert rig.found(rig.out) == {f'opt/{name}' for name in FILES}
    assert 'Removed 5 files' in rig.run(f'--prefix={rig.out}/opt', '--uninstall')
    assert not rig.found(rig.out)
    assert not list((rig.out / 'opt').iterdir())
    assert 'nothing from here' in rig.run(f'--prefix={rig.out}/opt',
                                          '--uninstall', ok=False)


def test_files_of_others_are_left_alone(rig):
    theirs = rig.out / 'bin/qemu-img'
    theirs.parent.mkdir(parents=True)
    theirs.write_text('the distribution\'s\n')
    said = rig.run(f'--prefix={rig.out}', ok=False)
    assert f'{theirs} is there already' in said
    assert rig.found(rig.out) == {'bin/qemu-img'}
    assert theirs.read_text() == 'the distribution\'s\n'
    theirs.rename(rig.out / 'bin/other')
    rig.run(f'--prefix={rig.out}')
    rig.run(f'--prefix={rig.out}', '--uninstall')
    assert rig.found(rig.out) == {'bin/other'}


def test_again(rig):
    """A program that runs is replaced, not written to; what went, goes."""
    rig.run(f'--prefix={rig.out}')
    old = (rig.out / 'bin/qemu-img').open()
    rig.program.write_text('#!/bin/sh\necho new\n')
    gone = rig.out / 'share/qemu/keymaps/gone'
    gone.write_text('of an older version\n')
    record = rig.out / LIST
    record.write_text(record.read_text() + f'{gone}\n')
    rig.run(f'--prefix={rig.out}')
    with old:
        assert old.read() == '#!/bin/sh\necho old\n'
    assert (rig.out / 'bin/qemu-img').read_text() == '#!/bin/sh\necho new\n'
    assert rig.found(rig.out) == FILES


def test_prefix_of_configure(tmp_path):
    """Where it was built for, without another word; and nowhere else."""
    rig = Rig(tmp_path, prefix=f'{tmp_path}/out')
    said = rig.run('--prefix=/opt', ok=False)
    assert f'was configured for {rig.out}: run ./configure --prefix=/opt' in said
    rig.run()
    assert rig.found(rig.out) == FILES
    rig.run('--uninstall')
    assert not rig.found(rig.out)


def test_build_that_fails(rig):
    rig.program.unlink()
    assert 'could not be built' in rig.run(f'--prefix={rig.out}', ok=False)
    assert not rig.out.exists()


def test_relative_prefix(rig):
    assert 'PREFIX=opt is not an absolute path' in \
        rig.run('--prefix=opt', ok=False)


def test_nothing_configured(rig):
    shutil.rmtree(rig.build)
    assert 'nothing is configured' in rig.run(ok=False)
