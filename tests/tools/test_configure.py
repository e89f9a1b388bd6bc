# SPDX-License-Identifier: GPL-2.0-or-later
"""./configure and scripts/hooks, on a QEMU of four small files.

Each test has a repository of its own with one new file and one hook, and a
tree that looks enough like QEMU's source for ./configure."""

import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent

BACKEND = ''.join(f'line {n}\n' for n in range(1, 31))
HOOK = '''\
Description: call the new file
 where it matters.
Forwarded: no

--- a/block/block-backend.c
+++ b/block/block-backend.c
@@ -9,4 +9,5 @@
 line 9
 line 10
+    new_call();
 line 11
 line 12
'''
CONFIGURE = '''\
#!/bin/sh
echo "$@" >> arguments
touch build.ninja
'''


class Rig:
    """A repository, a QEMU source tree and a build directory."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.repo, self.qemu = tmp / 'repo', tmp / 'qemu-10.0.99'
        self.build = self.repo / 'build'
        shutil.copytree(REPO / 'scripts', self.repo / 'scripts')
        shutil.copy(REPO / 'configure', self.repo)
        self.put(self.repo / 'meson.build', "project('rig')\n")
        self.put(self.repo / 'meson.options', "option('cache_dir', type: 'string')\n")
        self.put(self.repo / 'block/new.c', 'new file\n')
        self.put(self.repo / 'tests/guest/guest.c', 'no part of QEMU\n')
        self.hook = self.put(self.repo / 'block/block-backend.c.diff', HOOK)
        self.put(self.qemu / 'VERSION', '10.0.99\n')
        self.put(self.qemu / 'block/block-backend.c', BACKEND)
        self.put(self.qemu / 'block/other.c', BACKEND)
        self.put(self.qemu / 'tests/guest/unrelated.c', '')
        self.put(self.qemu / 'scripts/tool.py', '')
        configure = self.put(self.qemu / 'configure', CONFIGURE)
        configure.chmod(configure.stat().st_mode | stat.S_IXUSR)
        self.edited = self.build / 'src/block/block-backend.c'

    @staticmethod
    def put(path, text):
        """Write a file and its directories."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *command, ok=True):
        """Run a program of the repository; returns what it prints."""
        env = {k: v for k, v in os.environ.items() if k != 'CC'}
        run = subprocess.run(
            command, cwd=self.repo, text=True, check=False,
            env={**env, 'PROJECT_CACHE': str(self.tmp / 'cache')},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert (run.returncode == 0) == ok, run.stdout
        return run.stdout

    def configure(self, *options, ok=True):
        """Run ./configure on the small QEMU."""
        if not any(o.startswith(('--qemu-source', '--refresh'))
                   for o in options):
            options = (f'--qemu-source={self.qemu}', *options)
        return self.run('./configure', *options, ok=ok)

    def hooks(self, *args, ok=True):
        """Run scripts/hooks."""
        return self.run('scripts/hooks', *args, ok=ok)

    def configured(self):
        """The options of each run of QEMU's configure."""
        return (self.build / 'qemu/arguments').read_text().splitlines()

    def edit(self, old, new, path=None):
        """Edit a file in the copy as a developer would."""
        path = path or self.edited
        path.write_text(path.read_text().replace(old, new))


@pytest.fixture(name='rig')
def fixture_rig(tmp_path):
    """A rig in a directory of its own."""
    return Rig(tmp_path)


def contents(top):
    """Everything below a directory."""
    return {p.relative_to(top): p.read_bytes() for p in top.rglob('*')
            if p.is_file()}


def test_overlay_is_laid_on_a_copy(rig):
    before = contents(rig.qemu)
    rig.configure()
    link = rig.build / 'src/block/new.c'
    assert link.is_symlink() and link.samefile(rig.repo / 'block/new.c')
    assert 'line 10\n    new_call();\nline 11\n' in rig.edited.read_text()
    assert not (rig.build / 'src/tests/guest/guest.c').exists()
    assert not (rig.build / 'src/scripts/hooks').exists()
    assert contents(rig.qemu) == before


def test_options_of_qemu_come_last(rig):
    rig.configure('--target-list=arm-softmmu')
    [arguments] = rig.configured()
    assert arguments.endswith(' --target-list=arm-softmmu')
    assert '--enable-linux-io-uring' in arguments


def test_second_run_does_nothing_again(rig):
    rig.configure('--enable-asan')
    copied = (rig.build / 'src').stat().st_ino
    laid = rig.edited.stat().st_mtime_ns
    assert rig.configure('--refresh') == ''
    assert (rig.build / 'src').stat().st_ino == copied
    assert rig.edited.stat().st_mtime_ns == laid
    assert len(rig.configured()) == 1


def test_other_options_configure_again(rig):
    rig.configure('--enable-asan')
    rig.configure()
    assert len(rig.configured()) == 2
    assert '--enable-asan' not in rig.configured()[1]


def test_tarball(rig):
    tarball = rig.tmp / 'qemu.tar.xz'
    with tarfile.open(tarball, 'w:xz') as tar:
        tar.add(rig.qemu, 'qemu-10.0.99')
    rig.configure(f'--qemu-source={tarball}')
    assert 'new_call' in rig.edited.read_text()
    assert rig.configure('--refresh') == ''


def test_debian_patches_are_applied_on_a_copy(rig):
    patch = HOOK.replace('new_call', 'debian_call')
    rig.put(rig.qemu / 'debian/source/format', '3.0 (quilt)\n')
    rig.put(rig.qemu / 'debian/changelog',
            'qemu (1:10.0.99-1) trixie; urgency=medium\n\n  * Test.\n\n'
            ' -- A <a@example.org>  Mon, 01 Jan 2024 00:00:00 +0000\n')
    rig.put(rig.qemu / 'debian/control',
            'Source: qemu\nMaintainer: A <a@example.org>\n\nPackage: qemu\n'
            'Architecture: any\nDescription: test\n')
    rig.put(rig.qemu / 'debian/patches/series', 'call.patch\n')
    rig.put(rig.qemu / 'debian/patches/call.patch',
            patch.replace('a/block/block-backend.c', 'a/block/other.c')
            .replace('b/block/block-backend.c', 'b/block/other.c'))
    before = contents(rig.qemu)
    rig.configure()
    assert 'debian_call' in (rig.build / 'src/block/other.c').read_text()
    assert contents(rig.qemu) == before


def test_hook_that_does_not_apply_names_itself(rig):
    rig.edit('line 10\n', 'another 10\n', rig.qemu / 'block/block-backend.c')
    said = rig.configure(ok=False)
    assert 'hook block/block-backend.c.diff does not apply to ' \
        'block/block-backend.c of QEMU 10.0.99' in said
    assert not (rig.build / 'qemu').exists()


def test_hook_for_a_file_that_qemu_has_not(rig):
    rig.put(rig.repo / 'block/gone.c.diff', HOOK)
    said = rig.configure(ok=False)
    assert 'block/gone.c.diff: QEMU 10.0.99 has no block/gone.c' in said


def test_new_file_in_the_place_of_one_of_qemus(rig):
    rig.put(rig.repo / 'block/other.c', 'not a hook\n')
    assert 'block/other.c: QEMU 10.0.99 has a file of that name' in \
        rig.configure(ok=False)


def test_no_qemu(rig):
    (rig.qemu / 'VERSION').unlink()
    assert 'has no VERSION' in rig.configure(ok=False)


def test_changed_and_removed_hooks_are_followed(rig):
    rig.configure()
    rig.put(rig.hook, HOOK.replace('new_call', 'newer_call'))
    rig.configure('--refresh')
    assert 'newer_call' in rig.edited.read_text()
    rig.hook.unlink()
    (rig.repo / 'block/new.c').unlink()
    rig.configure('--refresh')
    assert rig.edited.read_text() == BACKEND
    assert not os.path.lexists(rig.build / 'src/block/new.c')


def test_another_source_replaces_the_copy(rig):
    rig.configure()
    rig.put(rig.qemu / 'VERSION', '10.0.100\n')
    rig.put(rig.qemu / 'block/block-backend.c', 'line 0\n' + BACKEND)
    rig.configure()
    assert rig.edited.read_text().startswith('line 0\nline 1\n')
    assert 'new_call' in rig.edited.read_text()
    assert len(rig.configured()) == 2


def test_edits_survive_and_are_written_back(rig):
    rig.configure()
    rig.edit('line 20\n', 'line 20\n    second_call();\n')
    assert 'block/block-backend.c.diff and ' in rig.hooks('check', ok=False)
    assert 'block/block-backend.c' in rig.configure('--refresh')
    assert 'second_call' in rig.edited.read_text()
    rig.hooks('write')
    text = rig.hook.read_text()
    assert text.startswith('Description: call the new file\n where it matters.\n')
    assert re.search(r'^\+    second_call', text, re.M)
    rig.hooks('check')
    assert rig.configure('--refresh') == ''
    before = rig.hook.read_text()
    assert rig.hooks('write') == '' and rig.hook.read_text() == before


def test_edit_and_changed_hook_conflict(rig):
    rig.configure()
    rig.edit('line 20\n', 'line 20\n    second_call();\n')
    rig.put(rig.hook, HOOK.replace('new_call', 'newer_call'))
    said = rig.configure('--refresh', ok=False)
    assert 'scripts/hooks write block/block-backend.c' in said
    assert 'second_call' in rig.edited.read_text()


def test_another_source_does_not_discard_edits(rig):
    rig.configure()
    rig.edit('line 20\n', 'line 20\n    second_call();\n')
    rig.put(rig.qemu / 'VERSION', '10.0.100\n')
    assert 'scripts/hooks write' in rig.configure(ok=False)
    assert 'second_call' in rig.edited.read_text()


def test_edit_of_another_file_becomes_a_hook(rig):
    rig.configure()
    other = rig.build / 'src/block/other.c'
    rig.edit('line 5\n', 'line five\n', other)
    assert f'{other} is changed, but has no hook' in rig.hooks('check', ok=False)
    rig.hooks('write')
    hook = rig.repo / 'block/other.c.diff'
    assert hook.read_text().startswith('Description: TODO')
    assert 'its Description is still to be written' in rig.hooks('check', ok=False)
    rig.edit('TODO: what', 'what', hook)
    rig.hooks('check')
    assert rig.configure('--refresh') == ''


def test_edit_taken_back_removes_the_hook(rig):
    rig.configure()
    rig.put(rig.edited, BACKEND)
    rig.hooks('write')
    assert not rig.hook.exists()
    rig.hooks('check')


def test_file_made_in_the_copy_is_noticed(rig):
    rig.configure()
    rig.put(rig.build / 'src/block/lost.c', 'text\n')
    assert 'lost.c is new: its place is in the repository' in \
        rig.hooks('check', ok=False)


@pytest.mark.parametrize('old, new, complaint', [
    ('Description: call the new file\n where it matters.\n', '',
     'no Description'),
    ('--- a/block', 'index 1..2\n--- a/block', 'no "index"'),
    ('+++ b/block/block-backend.c', '+++ b/block/block-backend.c\t2024-01-01',
     'no times'),
    ('--- a/block/block-backend.c', '--- c/block/block-backend.c', 'no other'),
], ids=['description', 'index', 'times', 'names'])
def test_malformed_hooks(rig, old, new, complaint):
    rig.put(rig.hook, HOOK.replace(old, new))
    rig.configure()
    assert complaint in rig.hooks('check', ok=False)
