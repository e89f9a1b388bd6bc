# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest tests and the demo share: a guest, its storage, its monitor.

Nothing but Python's standard library, so that scripts/demo runs anywhere.
"""
