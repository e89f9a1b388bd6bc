# SPDX-License-Identifier: GPL-2.0-or-later
"""blk-cancel-timeline on logs that are small, odd, cut off or of no use.

That it understands what QEMU writes is tested with QEMU, in
tests/qtest/virtio-blk-cancel-figures-test.c."""

import io
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

TOOL = Path(__file__).resolve().parents[2] / 'scripts/blk-cancel-timeline'

SETUP = '''
0.0 blk_cancel_on blk 0xb1 device disk0 node node0
0.0 virtio_blk_cancel_device vdev 0xd1 blk 0xb1
'''
WRITE = '''
1.0 virtio_blk_cancel_request vdev 0xd1 req 0xf1 vq 0 tag 0x11
1.0 virtio_blk_handle_write vdev 0xd1 req 0xf1 sector 8 nsectors 8
1.0 blk_cancel_submit blk 0xb1 req 0xe1 opaque 0xf1 op 1 offset 4096 bytes 4096 flags 0x0
1.0 blk_cancel_issue blk 0xb1 req 0xe1
'''
CANCEL = '''
3.0 virtio_blk_cancel vdev 0xd1 vq 0 tag 0x11
3.0 blk_cancel_abandoned blk 0xb1 req 0xe1 op 1 offset 4096 bytes 4096 age_ns 2000000000
3.0 virtio_blk_req_complete vdev 0xd1 req 0xf1 status 7
3.0 virtio_blk_cancel_outcome vdev 0xd1 vq 0 tag 0x11 target given back, status 0
'''
FINISH = '''
9.0 blk_cancel_finished blk 0xb1 req 0xe1 op 1 offset 4096 bytes 4096 ret 0 age_ns 8000000000
'''
OTHER = '''
0.0 blk_cancel_on blk 0xb2 device disk1 node node1
2.0 blk_cancel_submit blk 0xb2 req 0xe2 opaque 0xf2 op 3 offset 0 bytes 0 flags 0x0
2.0 blk_cancel_issue blk 0xb2 req 0xe2
2.5 blk_cancel_end blk 0xb2 req 0xe2 ret 0
'''


def log_of(*parts):
    """A log with QEMU's prefix: thread, seconds, microseconds."""
    lines = []
    for line in ''.join(parts).strip().splitlines():
        when, _, event = line.partition(' ')
        if event:
            when = f'{1000 + float(when):.6f}'
            lines.append(f'77@{when}:{event}\n')
    return ''.join(lines)


def run(tmp_path, log, *args):
    """In this process: it is quicker.  Returns exit status, output and errors."""
    path = tmp_path / 'log'
    path.write_text(log, encoding='utf-8')
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), \
            patch.object(sys, 'argv', [str(TOOL), str(path),
                                       *map(str, args)]):
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as end:
            err.write(f'{end.code}\n')
            status = 1
    return status, out.getvalue(), err.getvalue()


def show(tmp_path, *parts, args=()):
    """The timeline of a log, without its first line and its times' zeroes."""
    status, out, err = run(tmp_path, log_of(*parts), *args)
    assert status == 0, err
    return [' '.join(line.split()) for line in out.splitlines()[1:]]


def test_whole_story(tmp_path):
    assert show(tmp_path, SETUP, WRITE, CANCEL, FINISH) == [
        '1.000000 s #1 write 4 KiB at 4 KiB: submitted, queue 0, tag 0x11',
        '1.000000 s --- the storage does not answer from here on ---',
        '3.000000 s #1 write 4 KiB at 4 KiB: CANCEL: given back',
        '3.000000 s #1 write 4 KiB at 4 KiB: abandoned, 2.000 s old',
        '9.000000 s #1 write 4 KiB at 4 KiB: finished late, 8.000 s old',
        '9.000000 s --- the storage is back: it hung for 8.000 s, requests '
        'abandoned: 1 ---']


def test_still_hung(tmp_path):
    lines = show(tmp_path, SETUP, WRITE, CANCEL)
    assert lines[-1] == ('#1 write 4 KiB at 4 KiB: unfinished at the end of '
                         'the log, 2.000 s old')
    assert not any('is back' in line for line in lines)


def test_began_late(tmp_path):
    """What was submitted, or even abandoned, before the log began."""
    lines = show(tmp_path, CANCEL, FINISH)
    assert '-2.000000 s #1 write 4 KiB at 4 KiB: submitted' in lines
    assert any('finished late, 8.000 s old' in line for line in lines)
    lines = show(tmp_path, FINISH)
    assert '-8.000000 s #1 write 4 KiB at 4 KiB: submitted' in lines


def test_failed_late(tmp_path):
    lines = show(tmp_path, SETUP, WRITE, CANCEL,
                 FINISH.replace('ret 0', 'ret -5'))
    assert any('8.000 s old, error 5 (Input/output error)' in line
               for line in lines)


REFUSED = '''
2.0 virtio_blk_cancel vdev 0xd1 vq 0 tag 0x11
2.0 virtio_blk_cancel_outcome vdev 0xd1 vq 0 tag 0x11 target still held, status 8
'''


def test_refused(tmp_path):
    end = '''
9.0 blk_cancel_end blk 0xb1 req 0xe1 ret 0
9.0 virtio_blk_req_complete vdev 0xd1 req 0xf1 status 0
'''
    lines = show(tmp_path, SETUP, WRITE, REFUSED, end)
    assert lines[-1] == \
        '9.000000 s #1 write 4 KiB at 4 KiB: completed after 8.000 s'


def test_refused_and_asked_again(tmp_path):
    lines = show(tmp_path, SETUP, WRITE, REFUSED, CANCEL, FINISH)
    assert [line.partition('CANCEL: ')[2] for line in lines
            if 'CANCEL: ' in line] == ['still held', 'given back']


def test_address_used_again(tmp_path):
    """Freed requests' addresses come back at once."""
    again = WRITE.replace('1.0 ', '10.0 ').replace('0x11', '0x12')
    end = '''
12.0 blk_cancel_end blk 0xb1 req 0xe1 ret 0
12.0 virtio_blk_req_complete vdev 0xd1 req 0xf1 status 0
'''
    lines = show(tmp_path, SETUP, WRITE, CANCEL, FINISH, again, end)
    assert ('10.000000 s #2 write 4 KiB at 4 KiB: submitted, queue 0, tag '
            '0x12') in lines
    assert ('12.000000 s #2 write 4 KiB at 4 KiB: completed after 2.000 s'
            in lines)


def test_waits_and_reset(tmp_path):
    reset = '''
2.0 blk_cancel_wait blk 0xb1 req 0xe3 where 2 offset 4096 bytes 512
5.0 blk_cancel_end blk 0xb1 req 0xe3 ret -125
5.0 virtio_blk_cancel_dropped vdev 0xd1 req 0xf3
5.0 virtio_blk_cancel_drop vdev 0xd1 vq 0 requests dropped, 0 cannot be
5.0 virtio_blk_cancel_drop vdev 0xd1 vq 1 requests dropped, 0 cannot be
'''
    read = WRITE.replace('0xf1', '0xf3').replace('0xe1', '0xe3') \
        .replace('0x11', '0x13').replace('op 1', 'op 0') \
        .replace('handle_write', 'handle_read')
    read = '\n'.join(line for line in read.splitlines() if 'issue' not in line)
    lines = show(tmp_path, SETUP, read, reset)
    assert '2.000000 s #1 read 4 KiB at 4 KiB: waits at the fence' in lines
    assert '5.000000 s #1 read 4 KiB at 4 KiB: dropped by a reset' in lines
    assert [line for line in lines if 'RESET' in line] == \
        ['5.000000 s RESET: 1 requests dropped']


def test_other_device_models(tmp_path):
    """Without virtio-blk's events: what the engine knows."""
    lines = show(tmp_path, SETUP.splitlines()[1] + '\n', WRITE.splitlines()[3],
                 '\n', WRITE.splitlines()[4], CANCEL.splitlines()[2], FINISH)
    assert '1.000000 s #1 write 4 KiB at 4 KiB: submitted' in lines


def test_all_and_slow(tmp_path):
    assert show(tmp_path, OTHER) == [
        '1 more requests, with nothing remarkable',
        'Nothing hung, waited or was taken back (--all shows all)']
    for args in (['--all'], ['--slow', '0.4']):
        assert show(tmp_path, OTHER, args=args) == [
            '2.000000 s #1 flush: submitted',
            '2.500000 s #1 flush: completed after 0.500 s']


def test_several_disks(tmp_path):
    log = log_of(SETUP, WRITE, CANCEL, FINISH, OTHER)
    status, out, err = run(tmp_path, log)
    assert status == 1 and not out
    assert 'choose one with --disk:' in err
    assert '  disk0: 1 requests, 1 abandoned\n' in err
    assert '  disk1: 1 requests, 0 abandoned\n' in err
    status, out, err = run(tmp_path, log, '--disk', 'disk2')
    assert status == 1 and 'there is no disk disk2 in the log, but:' in err
    status, out, _ = run(tmp_path, log, '--disk', 'disk1', '--all')
    assert status == 0 and 'flush' in out and 'write' not in out


def test_plugged_again(tmp_path):
    """A new disk of the same name, and at the same address."""
    status, _, err = run(tmp_path, log_of(SETUP, WRITE, CANCEL, FINISH,
                                          SETUP.replace('0.0', '20.0')))
    assert status == 1
    assert '  disk0: 1 requests' in err and '  disk0 (2): 0 requests' in err


@pytest.mark.parametrize('log, said', [
    ('', 'there is no event of a disk'),
    ('hello\n\0\xff\n', 'there is no event of a disk'),
    ('blk_cancel_issue blk 0xb1 req 0xe1\n', 'the log has no times: run'),
], ids=['empty', 'garbage', 'no-times'])
def test_useless(tmp_path, log, said):
    status, out, err = run(tmp_path, log)
    assert status == 1 and not out
    assert said in err and '-msg timestamp=on' in err


def test_cut_off(tmp_path):
    """The last line of a process that was killed; lines of other events."""
    log = log_of(SETUP, WRITE, CANCEL, FINISH)
    status, out, err = run(
        tmp_path, 'qemu: a warning\n' + log +
        '77@1000.000000:virtio_blk_rw_complete vdev 0xd1 req 0xf1 ret 0\n'
        '77@1010.000000:blk_cancel_finished blk 0xb1 re')
    assert status == 0 and 'finished late' in out
    assert 'blk_cancel_finished: 1 lines are not understood' in err


def test_no_such_file(tmp_path):
    done = subprocess.run([TOOL, tmp_path / 'none'], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (f'blk-cancel-timeline: {tmp_path}/none: '
                           'No such file or directory\n')


def test_help():
    done = subprocess.run([TOOL, '--help'], capture_output=True, text=True,
                          check=True)
    assert '-msg timestamp=on' in done.stdout


def svg(tmp_path, log, *args):
    """The texts and titles of the picture, which must be XML."""
    status, _, err = run(tmp_path, log, '--svg', tmp_path / 'svg', *args)
    assert status == 0, err
    return [e.text for e in ET.parse(tmp_path / 'svg').iter() if e.text]


def test_svg(tmp_path):
    texts = svg(tmp_path, log_of(SETUP.replace('disk0', 'a<&"b'), WRITE,
                                 CANCEL, FINISH))
    assert 'Requests of a<&"b' in texts
    assert '#1  write 4 KiB at 4 KiB' in texts
    assert '#1 write 4 KiB at 4 KiB: abandoned for 6.000 s' in texts
    assert '#1 write 4 KiB at 4 KiB: CANCEL: given back' in texts
    assert 'storage hung for 8.000 s' in texts
    assert 'time in seconds' in texts


def test_svg_of_nothing(tmp_path):
    assert 'time in seconds' in svg(tmp_path, log_of(SETUP))


def test_svg_of_many(tmp_path):
    """A picture has an end."""
    lines = [f'{1 + i / 1000:.3f} blk_cancel_abandoned blk 0xb1 req 0x{i + 1:x}'
             ' op 0 offset 0 bytes 512 age_ns 1000000\n' for i in range(400)]
    texts = svg(tmp_path, log_of(SETUP, *lines))
    assert '100 more requests are not shown: more than 300 hung' in texts
