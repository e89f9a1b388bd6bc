# SPDX-License-Identifier: GPL-2.0-or-later
"""scripts/deb: the patches of the source package make the tree that is built.

That dpkg-source takes them, "make deb-source" shows; it unpacks 40 MB."""

import importlib.machinery
import importlib.util
import os
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get('BUILD_DIR', REPO / 'build'))


def load():
    """scripts/deb, as a module."""
    loader = importlib.machinery.SourceFileLoader('deb',
                                                  str(REPO / 'scripts/deb'))
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader('deb', loader))
    loader.exec_module(module)
    return module


deb = load()


def test_patches(tmp_path):
    """One after the other, without fuzz, they leave the tree."""
    if not (BUILD / 'overlay').is_dir():
        pytest.skip(f'{BUILD} is not configured')
    overlay = deb.hooks.find_overlay(Namespace(src=None, build_dir=BUILD))
    for name in overlay.names:
        if overlay.stock(name):
            deb.hooks.put(tmp_path / name, overlay.stock(name).read_bytes())
    for name, text in deb.patches(overlay):
        run = subprocess.run(
            ['patch', '-p1', '--fuzz=0', '--force', '--no-backup-if-mismatch',
             '-d', tmp_path], input=text, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert run.returncode == 0, f'{name}: {run.stdout}'
        assert text.startswith(('From ', 'Description: ')), name
    for name in overlay.files:
        assert (tmp_path / name).read_bytes() == \
            (REPO / name).read_bytes(), name
    for name in overlay.hooks:
        assert (tmp_path / name).read_bytes() == overlay.hooked(name)[0], name
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')
            if path.is_file()}
    assert made == {*overlay.files, *overlay.names}


def test_version(tmp_path):
    """Newer than the package that it is made from, and older than the next."""
    changelog = tmp_path / 'debian/changelog'
    old = '1:10.0.13+ds-0+deb13u1'
    deb.hooks.put(changelog,
                  f'qemu ({old}) trixie; urgency=medium\n\n  * x\n'.encode())
    new = deb.add_changelog(tmp_path)
    for version in old, '1:10.0.13+ds-0+deb13u2', '1:10.0.14+ds-1':
        subprocess.run(['dpkg', '--compare-versions', new,
                        'gt' if version == old else 'lt', version], check=True)
    found = subprocess.run(['dpkg-parsechangelog', '-S', 'Version',
                            '-l', changelog], check=True, text=True,
                           stdout=subprocess.PIPE).stdout
    assert found.strip() == new
