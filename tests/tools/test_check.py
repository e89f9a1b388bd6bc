# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/check and scripts/pytest-tap: what they count, and what they call a
failure."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent.parent / 'scripts'

PROJECT = '''\
project('rig', meson_version: '>=1.5')
sh = find_program('sh')
foreach suite, script: {{
  'style': 'echo 1..1; echo ok 1 /style', 'tools': 'echo 1..1; echo ok 1 /tools',
  'spec': 'echo 1..1; echo ok 1 /spec',
  'qtest': 'echo 1..1; echo ok 1 /qtest', 'guest': {guest},
  'unit': {unit}}}
  test('test-' + suite, sh, args: ['-c', script], suite: suite,
       protocol: 'tap', timeout: 1)
endforeach
test('plain', sh, args: ['-c', 'true'], suite: 'style')
'''


def check(tmp, unit='echo 1..1; echo ok 1 /unit', guest='echo 1..1; echo ok 1 /g'):
    """Count a project with these tests; returns exit status and lines."""
    (tmp / 'meson.build').write_text(
        PROJECT.format(unit=repr(unit), guest=repr(guest)))
    subprocess.run(['meson', 'setup', 'build'], cwd=tmp, check=True,
                   stdout=subprocess.DEVNULL,
                   env={'PATH': '/usr/bin:/bin'})
    run = subprocess.run([SCRIPTS / 'check', '--build-dir', tmp / 'build'],
                         stdout=subprocess.PIPE, text=True, check=False)
    return run.returncode, run.stdout.splitlines()


def test_each_case_counts(tmp_path):
    status, lines = check(tmp_path, 'echo 1..3; for i in 1 2 3; do echo '
                                    'ok $i /unit/$i; done')
    assert status == 0
    assert lines[-1] == '9 passed, 0 failed, 0 skipped'


def test_failed_case(tmp_path):
    status, lines = check(tmp_path, 'echo 1..2; echo ok 1 /a; '
                                    'echo not ok 2 /b; exit 1')
    assert status == 1
    assert lines[-1] == '7 passed, 1 failed, 0 skipped'
    assert any(line.startswith('failed: test-unit: ') and '/b' in line
               for line in lines)


@pytest.mark.parametrize('script, how', [
    ('echo 1..1; echo ok 1 /a; exit 3', 'error'),
    ('echo 1..1; echo ok 1 /a; kill -SEGV $$', 'error'),
    ('echo 1..2; echo ok 1 /a', 'error'),
    ('echo 1..1; echo ok 1 /a; exec sleep 60', 'timeout'),
], ids=['status', 'crash', 'plan', 'timeout'])
def test_program_that_fails_after_its_last_case(tmp_path, script, how):
    status, lines = check(tmp_path, script)
    assert status == 1
    assert any(line.startswith('failed: test-unit: ') and how in line
               for line in lines), lines
    assert ' 1 failed' in lines[-1]


def test_skipped_case_is_named_with_its_reason(tmp_path):
    status, lines = check(tmp_path, 'echo 1..2; echo ok 1 /a; '
                                    'echo "ok 2 /b # SKIP no storage"')
    assert status == 0
    assert lines[-1] == '7 passed, 0 failed, 1 skipped'
    assert 'skipped: test-unit: /b: no storage' in lines


def test_skipped_program_is_named_with_its_reason(tmp_path):
    _, lines = check(tmp_path, 'echo "1..0 # SKIP no device"')
    assert 'skipped: test-unit: no device' in lines


@pytest.mark.parametrize('script', [
    'echo "1..0 # SKIP nothing here"',
    'echo 1..1; echo "ok 1 /g # SKIP no guest"',
], ids=['program', 'case'])
def test_suite_that_ran_no_test_fails(tmp_path, script):
    status, lines = check(tmp_path, guest=script)
    assert status == 1
    assert 'failed: suite guest ran no test' in lines
    assert ' 0 failed' not in lines[-1]


def test_program_without_a_test_fails(tmp_path):
    status, lines = check(tmp_path, 'echo 1..0')
    assert status == 1
    assert 'failed: test-unit: ran no test' in lines


PYTESTS = '''\
import pytest
@pytest.fixture
def broken_end():
    yield
    assert False
def test_good(): pass
def test_bad(): assert False
def test_skip(): pytest.skip('no # storage')
@pytest.mark.skip(reason='not now')
def test_marked(): pass
@pytest.mark.xfail(reason='known')
def test_expected(): assert False
def test_end(broken_end): pass
@pytest.mark.parametrize('n', ['a/b'])
def test_name(n): pass
'''


def test_pytest_tap(tmp_path):
    (tmp_path / 'test_it.py').write_text(PYTESTS)
    run = subprocess.run(
        [sys.executable, SCRIPTS / 'pytest-tap', 'test_it.py'], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=False)
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        'ok 1 test_good',
        'not ok 2 test_bad',
        'ok 3 test_skip # SKIP no # storage',
        'ok 4 test_marked # SKIP not now',
        'ok 5 test_expected # SKIP known',
        'not ok 6 test_end',
        'ok 7 test_name[a/b]',
        '1..7']


def test_pytest_tap_with_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / 'test_it.py').write_text('import nothing_of_that_name\n')
    run = subprocess.run(
        [sys.executable, SCRIPTS / 'pytest-tap', 'test_it.py'], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        check=False)
    assert run.returncode
    assert run.stdout.startswith('not ok 1 ')
