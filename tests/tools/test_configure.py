# SPDX-License-Identifier: GPL-2.0-or-later
"""./configure and scripts/hooks, on a QEMU of four small files.

Each test has a repository of its own with one new file and one hook, and a
tree that looks enough like QEMU's source for ./configure."""

import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
MESON = '/usr/bin/meson' if os.path.exists('/usr/bin/meson') else 'meson'

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
# Of a bug of QEMU's own, with a test
FIX = '''\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
From: Somebody with a name that
 is long <a@example.org>
Date: Mon, 30 Nov 2026 12:00:00 +0000
Subject: [PATCH] block: fix the fifth line

It is wrong.

Cc: qemu-stable@nongnu.org
---
 2 files changed

diff --git a/block/block-backend.c b/block/block-backend.c
--- a/block/block-backend.c
+++ b/block/block-backend.c
@@ -4,3 +4,3 @@
 line 4
-line 5
+line five
 line 6
diff --git a/tests/fix.sh b/tests/fix.sh
new file mode 100755
--- /dev/null
+++ b/tests/fix.sh
@@ -0,0 +1 @@
+the test
'''
CONFIGURE = '''\
#!/bin/sh
echo "$@" >> arguments
for arg; do
    case $arg in
    --target-list=*) targets=${arg#*=} ;;
    --bogus) echo "Try '../src/configure --help'"; exit 1 ;;
    esac
done
echo "TARGET_DIRS=$(echo "$targets" | tr , ' ')" > config-host.mak
echo "build qemu-img: phony" > build.ninja
'''


class Rig:
    """A repository, a QEMU source tree and a build directory."""

    def __init__(self, tmp):
        self.tmp = tmp
        self.repo, self.qemu = tmp / 'repo', tmp / 'qemu-10.0.99'
        self.build = self.repo / 'build'
        shutil.copytree(REPO / 'scripts', self.repo / 'scripts',
                        ignore=shutil.ignore_patterns('qapi',
                                                      'oss-fuzz'))
        shutil.copy(REPO / 'configure', self.repo)
        self.put(self.repo / 'meson.build', "project('rig')\n")
        shutil.copy(REPO / 'meson.options', self.repo)
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


def test_option_that_qemu_refuses_is_forgotten(rig):
    rig.configure('--enable-asan')
    said = rig.configure('--bogus', ok=False)
    assert f"Try '{rig.build}/src/configure --help'" in said
    rig.configure('--refresh')
    assert '--bogus' not in rig.configured()[-1]
    assert '--enable-asan' in rig.configured()[-1]


@pytest.mark.parametrize('name', ['my build', 'a:b'])
def test_name_in_which_qemu_cannot_be_built(rig, name):
    said = rig.configure(f'--build-dir={rig.tmp}/{name}', ok=False)
    assert 'because of the space or colon' in said
    assert not (rig.tmp / name).exists()


def links(rig):
    """The programs that the build directory offers."""
    return {p.name: os.readlink(p) for p in rig.build.iterdir()
            if p.is_symlink()}


def test_programs_of_the_targets(rig):
    rig.configure()
    assert links(rig) == {'qemu-system-x86_64': 'qemu/qemu-system-x86_64',
                          'qemu-img': 'qemu/qemu-img'}
    rig.configure('--target-list=aarch64-softmmu,arm-linux-user')
    assert links(rig) == {'qemu-system-aarch64': 'qemu/qemu-system-aarch64',
                          'qemu-arm': 'qemu/qemu-arm',
                          'qemu-img': 'qemu/qemu-img'}
    options = subprocess.run(
        [MESON, 'introspect', '--buildoptions', rig.build], check=True,
        stdout=subprocess.PIPE).stdout
    assert next(o['value'] for o in json.loads(options)
                if o['name'] == 'programs') == \
        ['qemu-system-aarch64', 'qemu-arm', 'qemu-img']


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


@pytest.fixture(name='fixed')
def fixture_fixed(rig):
    """A rig whose repository has a fix as well."""
    rig.fix = rig.put(rig.repo / 'fixes/qemu/fifth.patch', FIX)
    return rig


def test_fixes_lie_below_hooks(fixed):
    before = contents(fixed.qemu)
    fixed.configure()
    text = fixed.edited.read_text()
    assert 'line five\n' in text and 'new_call' in text
    assert os.access(fixed.build / 'src/tests/fix.sh', os.X_OK)
    assert contents(fixed.qemu) == before
    fixed.hooks('check')
    assert fixed.configure('--refresh') == ''


def test_hook_is_a_change_to_what_a_fix_leaves(fixed):
    fixed.configure()
    fixed.edit('line 20\n', 'line 20\n    second_call();\n')
    fixed.hooks('write')
    text = fixed.hook.read_text()
    assert 'second_call' in text and 'five' not in text
    fixed.hooks('check')


def test_edit_of_a_fixed_file_becomes_a_hook(fixed):
    fixed.hook.unlink()
    fixed.configure()
    fixed.edit('line 20\n', 'line 20\n    second_call();\n')
    assert 'block/block-backend.c' in fixed.hooks('edits')
    fixed.hooks('write')
    text = fixed.hook.read_text()
    assert 'second_call' in text and 'five' not in text


def test_changed_and_removed_fixes_are_followed(fixed):
    fixed.configure()
    fixed.put(fixed.fix, FIX.replace('line five', 'line V')
              .replace('fix.sh', 'other.sh'))
    fixed.configure('--refresh')
    assert 'line V\n' in fixed.edited.read_text()
    assert not (fixed.build / 'src/tests/fix.sh').exists()
    assert (fixed.build / 'src/tests/other.sh').exists()
    fixed.fix.unlink()
    fixed.configure('--refresh')
    assert 'line 5\n' in fixed.edited.read_text()
    assert 'new_call' in fixed.edited.read_text()
    assert not (fixed.build / 'src/tests/other.sh').exists()
    fixed.hooks('check')


def test_fix_that_does_not_apply_names_itself(fixed):
    fixed.edit('line 6\n', 'another 6\n', fixed.qemu / 'block/block-backend.c')
    assert 'fix fixes/qemu/fifth.patch does not apply to QEMU 10.0.99' in \
        fixed.configure(ok=False)


def test_fix_that_needs_another(fixed):
    second = FIX.replace('line 6', 'line 7').replace('line 5', 'line 6') \
        .replace('line 4', 'line five').replace('fix.sh', 'sixth.sh') \
        .replace('-4,3 +4,3', '-5,3 +5,3').replace('+line five', '+line six')
    fixed.put(fixed.repo / 'fixes/qemu/sixth.patch', second)
    fixed.configure()
    assert 'line five\nline six\n' in fixed.edited.read_text()
    said = fixed.hooks('check', ok=False)
    assert 'sixth.patch does not apply' in said and 'without the others' in said


def test_another_qemu_has_its_own(fixed):
    """A fix and a hook beside the first ones take their place there."""
    fixed.put(fixed.repo / 'fixes/qemu/fifth.10.2.patch',
              FIX.replace('line five', 'line 10.2'))
    fixed.put(fixed.repo / 'fixes/qemu/old.10.0.patch',
              FIX.replace('block/block-backend.c', 'block/other.c')
              .replace('fix.sh', 'old.sh'))
    fixed.put(fixed.repo / 'block/block-backend.c.10.2.diff',
              HOOK.replace('new_call', 'newest_call'))
    fixed.configure()
    assert 'line five\n' in fixed.edited.read_text()
    assert 'new_call' in fixed.edited.read_text()
    assert 'line five\n' in (fixed.build / 'src/block/other.c').read_text()
    fixed.put(fixed.qemu / 'VERSION', '10.2.1\n')
    fixed.configure()
    assert 'line 10.2\n' in fixed.edited.read_text()
    assert 'newest_call' in fixed.edited.read_text()
    assert 'line 5\n' in (fixed.build / 'src/block/other.c').read_text()
    fixed.hooks('check')


def test_hook_of_another_qemu_is_written_beside_the_first(rig):
    """Where the first will do, none is written."""
    before = rig.hook.read_text()
    rig.put(rig.qemu / 'VERSION', '10.2.1\n')
    rig.put(rig.qemu / 'block/block-backend.c', 'line 0\n' + BACKEND)
    rig.configure()
    assert rig.hooks('write') == ''
    rig.edit('line 20\n', 'line 20\n    second_call();\n')
    rig.hooks('write')
    assert rig.hook.read_text() == before
    text = (rig.repo / 'block/block-backend.c.10.2.diff').read_text()
    assert text.startswith('Description: call the new file\n')
    assert 'second_call' in text
    rig.hooks('check')


@pytest.mark.parametrize('old, new, complaint', [
    ('From: Somebody with a name that\n is long <a@example.org>\n', '',
     'no "From:"'),
    ('[PATCH] ', '', 'no "Subject: [PATCH]"'),
    ('Cc: qemu-stable@nongnu.org\n', '', 'no "Cc: qemu-stable@nongnu.org"'),
    ('---\n 2 files', 'Signed-off-by: A <a@example.org>\n---\n 2 files',
     'who sends it adds the Signed-off-by'),
    ('tests/fix.sh', 'block/fix.sh', 'no test'),
], ids=['from', 'subject', 'stable', 'signed-off', 'test'])
def test_malformed_fixes(fixed, old, new, complaint):
    fixed.put(fixed.fix, FIX.replace(old, new))
    fixed.configure()
    assert complaint in fixed.hooks('check', ok=False)


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
