# SPDX-License-Identifier: GPL-2.0-or-later
"""check-statements notices what does not fit."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROPOSAL = Path(__file__).resolve().parent.parent.parent / 'spec-proposal'


def check(tmp, in_table=('', ''), in_patches=('', '')):
    """The proposal with a text replaced; returns exit status and output."""
    for directory in ('patches', 'separate'):
        shutil.copytree(PROPOSAL / directory, tmp / directory)
    shutil.copy(PROPOSAL / 'statements.txt', tmp)
    for (old, new), paths in ((in_table, [tmp / 'statements.txt']),
                              (in_patches, tmp.glob('*/*.patch'))):
        hits = 0
        for path in paths:
            text = path.read_text()
            hits += old in text
            path.write_text(text.replace(old, new, 1))
        assert hits
    run = subprocess.run(
        [PROPOSAL / 'check-statements', '--proposal', tmp],
        stdout=subprocess.PIPE, text=True, check=False)
    return run.returncode, run.stdout


def test_as_it_is(tmp_path):
    status, out = check(tmp_path)
    assert status == 0
    assert 'not ok' not in out


@pytest.mark.parametrize('change, said', [
    (('V-7  ', '# V-7  '), 'has no entry: The device MUST ignore'),
    (('    qtest features-ok/combinations\n', ''), 'nothing checks it'),
    (('qtest no-target', 'qtest no-such-test'), 'there is no qtest no-such'),
    (('model FENCE\n', 'model FENCES\n'), 'there is no model FENCES'),
    (('guest test_nbd::test_read', 'guest test_nbd::test_reed'),
     'there is no guest test_nbd::test_reed'),
    (('V-7  ', 'V-6  '), 'is there twice'),
], ids=['entry', 'unchecked', 'qtest', 'model', 'guest', 'twice'])
def test_table(tmp_path, change, said):
    status, out = check(tmp_path, in_table=change)
    assert status == 1
    assert said in out


@pytest.mark.parametrize('change, said', [
    (('+The device MUST ignore', '+The device SHOULD ignore'),
     'has no entry: The device SHOULD ignore'),
    (('+The device MUST ignore', '+And it is so. The device MUST ignore'),
     'not ok 2 unmarked'),
    (('+The device MUST ignore', '+The device ignores'),
     'the proposal does not say this'),
    (('normative:Device Types / Block Device / Device Operation / Request',
      'normative:Device Types / Block Device / Device Operation / No Request '
      'Cancellation / Request'), 'not ok 1 labels'),
], ids=['changed', 'unmarked', 'removed', 'label'])
def test_text(tmp_path, change, said):
    status, out = check(tmp_path, in_patches=change)
    assert status == 1
    assert said in out


@pytest.mark.parametrize('line, said', [
    ('+\n', 'not ok 3 lines'),
    ('+This MUST be shorter.\n', 'not ok 4 keywords'),
], ids=['lines', 'keywords'])
def test_size(tmp_path, line, said):
    status, out = check(tmp_path, in_patches=(
        '+The device MUST ignore', 60 * line + '+The device MUST ignore'))
    assert status == 1
    assert said in out


def test_list_of_rules():
    """The page has the rules that the model checks."""
    rules = subprocess.run([PROPOSAL / 'model/check', '--list'],
                           stdout=subprocess.PIPE, text=True, check=True).stdout
    page = (PROPOSAL / 'README.rst').read_text()
    assert rules
    for rule in rules.splitlines():
        assert f'    {rule}\n' in page
