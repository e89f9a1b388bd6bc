# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/bench: what it makes of measurements."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parents[2]
bench = SimpleNamespace(**runpy.run_path(str(REPO / 'scripts/bench')))

DISKS = ['null-co', 'nbd', 'loop', 'ext4']


def visit(**cpu):
    """Three turns of each mode; stock takes 10, 20 and 30 us."""
    ratios = {'again': 1, 'off': 1, 'no copy': 1, 'lent': 1,
              'on': 1, **cpu, 'stock': 1}
    return {mode: [(ratio * us, 2 * us) for us in (10, 20, 30)]
            for mode, ratio in ratios.items()}


def data(**cpu):
    return {'machine': 'a machine', 'load': [0, 0], 'visits': [1, 2],
            'missing': [], 'instructions':
            {'stock': 2800, 'off': 2820, 'no copy': 2951, 'on': 3500},
            'results': {cell: [visit(**cpu), visit(**cpu)]
                        for cell in bench.plan(DISKS, False)}}


def row(text, what):
    found = [line for line in text.splitlines() if what in line]
    assert len(found) == 1, text
    return found[0]


@pytest.mark.parametrize('short', [False, True])
def test_plan(short):
    cells = list(bench.plan(DISKS, short))
    assert len(cells) == len(set(cells))
    for _, _, select, _ in bench.TARGETS:
        assert any(map(select, cells))


def test_ratio_is_of_pairs():
    cell = bench.Cell('loop', 'native', 'read', 4, 32, False)
    other = cell._replace(op='write')
    results = {cell: [visit(on=1.5)], other: [visit(on=7)]}
    r = bench.ratio(results, 'on', cell.__eq__)
    assert (r.median, r.low, r.high, r.n) == (1.5, 1.5, 1.5, 1)
    assert bench.ratio(results, 'on', cell.__eq__, 1).median == 1
    both = bench.ratio(results, 'on', lambda cell: True)
    assert both.low == 1.5 and both.high == 7 and both.n == 2
    assert bench.ratio(results, 'on', lambda cell: False) is None


@pytest.mark.parametrize('measured, limit, noise, said', [
    ((1.1, 1.0, 1.2, 20), 1.25, (1, .98, 1.02, 20), 'yes'),
    ((1.3, 1.26, 1.4, 20), 1.25, (1, .98, 1.02, 20), 'no'),
    ((1.2, 1.1, 1.3, 20), 1.25, (1, .98, 1.02, 20), 'open'),
    ((1.1, 1.0, 1.2, 3), 1.25, (1, .98, 1.02, 20), 'open'),
    ((1.0, .99, 1.01, 20), 1.0, (1, .98, 1.02, 20), 'yes'),
    ((1.1, 1.05, 1.2, 20), 1.0, (1, .98, 1.02, 20), 'no'),
    ((1.1, 1.05, 1.2, 20), 1.0, (1, .8, 1.3, 20), 'open'),
])
def test_verdict(measured, limit, noise, said):
    assert bench.verdict(bench.Ratio(*measured), limit,
                         bench.Ratio(*noise)).split(':')[0] == said


def test_report():
    text = bench.report(data(on=1.5))
    assert row(text, 'loop device, 4 KiB, native').endswith('no')
    assert row(text, 'file on ext4, 4 KiB, native').endswith('yes')
    assert row(text, '2820').endswith('yes')
    assert '(+151)' in row(text, '2951') and row(text, '2951').endswith('no')


def test_saved(tmp_path):
    bench.save(data(on=1.5), tmp_path / 'results.json')
    assert bench.report(bench.load(tmp_path / 'results.json')) == \
        bench.report(data(on=1.5))
