# SPDX-License-Identifier: GPL-2.0-or-later
#
# A thin front: every target does what is missing before it - packages,
# QEMU's source, configuration, build - and nothing twice.

# The build directory, e.g. make BUILD=build-debug check
BUILD ?= build
# Tests to run: make check SUITE=unit, make check TEST=test-blk-cancel
SUITE ?=
TEST ?=
# The race test alone: make check-race MINUTES=60, SEED=N to repeat a run
MINUTES ?= 10
SEED ?=
# Of the guest's debug kernel: make check-debug-kernel HZ=1000
HZ ?= 250
# Some of make check-harm: make check-harm K=slow
K ?=
# A copy of the VIRTIO specification's repository: make spec VIRTIO_SPEC=DIR
VIRTIO_SPEC ?=

.PHONY: all build check demo docs spec tests hooks-write hooks-check clean distclean help
.NOTPARALLEL:

all: build

build: setup
	@[ -e $(BUILD)/qemu.stamp ] || ls $(BUILD)/qemu/qemu-system-* >/dev/null 2>&1 || \
	    echo 'Building QEMU, the first time: some 1700 files, 5 to 15 minutes'
	@ninja -C $(BUILD)

.PHONY: setup
setup: setup-packages
	@./configure --refresh --build-dir=$(BUILD)

tests: build
	@ninja -C $(BUILD) qemu-tests.stamp hold-fs guest-6.1.stamp guest-7.3.stamp guest-recovery.stamp

check: tests
	@scripts/check --build-dir $(BUILD) $(SUITE:%=--suite %) $(TEST)

# The same on the newest QEMU that Debian serves, in a build directory of its
# own; QEMU_SOURCE=DIR takes another one.
.PHONY: check-newest
check-newest: setup-packages
	@source=$$(scripts/newest-qemu) && \
	    ./configure --build-dir=$(BUILD)-newest --qemu-source="$$source"
	@$(MAKE) --no-print-directory BUILD=$(BUILD)-newest check

# Three tests share the time.
.PHONY: check-race
check-race: tests
	@cd $(BUILD)/qemu && QTEST_QEMU_BINARY=./qemu-system-x86_64 \
	    QTEST_HOLD_FS=../hold-fs \
	    RACE_SEED=$(SEED) RACE_SECONDS=$$(($(MINUTES) * 60 / 3)) \
	    tests/qtest/virtio-blk-race-test $(TEST:%=-p /virtio-blk-race/%)

# Pages that are swapped under requests, a hundred thousand times.
.PHONY: check-swap
check-swap: tests
	@cd $(BUILD)/qemu && PAGE_SWAPS=100000 tests/unit/test-page-swap && \
	    QTEST_HOLD_FS=../hold-fs SWAP_STEPS=100000 \
	    tests/unit/test-blk-cancel-swap

# Sanitizers have build directories of their own.
.PHONY: check-sanitize check-tsan
check-sanitize: setup-packages
	@scripts/sanitize address $(BUILD)-sanitize

check-tsan: setup-packages
	@scripts/sanitize thread $(BUILD)-tsan

# The devices against inputs that nobody has thought of; TARGET=NAME: only one.
TARGET ?=
.PHONY: check-fuzz
check-fuzz: setup-packages
	@scripts/install-deps --fuzz
	@scripts/fuzz --build-dir $(BUILD)-fuzz --minutes $(MINUTES) $(TARGET)

.PHONY: setup-packages
setup-packages:
	@scripts/install-deps

# Real servers in the network: Ceph, iSCSI, NFS, NBD, SSH, qemu-storage-daemon.
.PHONY: check-storage
check-storage: build
	@scripts/install-deps --storage
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) STORAGE=all \
	    PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 -m pytest -q -p no:cacheprovider test_storage.py

# The storage goes away and comes back under a file system for half an hour.
.PHONY: check-long
check-long: build
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) ROUNDS=$${ROUNDS:-20} \
	    PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 -m pytest -q -p no:cacheprovider test_driver_fio.py

# Four kinds of storage that come and go under file systems, while the host does
# all kinds of things with the machine. HOURS=0 is one round of a few minutes,
# SEED=N repeats the order of things.
HOURS ?= 2
.PHONY: check-soak
check-soak: build
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) HOURS=$(HOURS) \
	    SEED=$(SEED) PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 -m pytest -q -s -p no:cacheprovider check_soak.py

# Storage of many kinds, with cancel=off and on side by side, in an hour; make
# check has some of it. K=WORD tries what has that in its name.
.PHONY: check-harm
check-harm: build
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) HARM=all \
	    PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m pytest -q --tb=short \
	    -p no:cacheprovider test_harm.py test_range.py check_harm.py $(K:%=-k %); \
	    status=$$?; cat $(abspath $(BUILD))/guest-tests/harm.txt; exit $$status

# The driver under lockdep and KASAN, and with DMA debugging, on a kernel that is
# built for that once, in 20 minutes with two free CPUs.  HZ=1000 is another one,
# without these. Left out: what needs ACPI's PCI hotplug, which they lack.
.PHONY: check-debug-kernel
check-debug-kernel: build
	@DEBUG_KERNEL_HZ=$(HZ) guest-driver/build $(BUILD)/guest-debug-$(HZ) debug
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) GUEST=guest-debug-$(HZ) \
	    GUEST_ARGS=panic_on_warn=1 \
	    ROUNDS=$${ROUNDS:-3} PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 -m pytest -q -p no:cacheprovider test_driver.py \
	    test_driver_disks.py test_driver_dma.py test_driver_fio.py \
	    test_driver_patience.py --deselect test_driver_disks.py::test_unplug

# The driver's reset and recovery: also what takes minutes.
.PHONY: check-recovery
check-recovery: build
	@ninja -C $(BUILD) guest-recovery.stamp
	@cd tests/guest && BUILD_DIR=$(abspath $(BUILD)) GUEST=guest-recovery \
	    PYTHONDONTWRITEBYTECODE=1 \
	    /usr/bin/python3 -m pytest -q -p no:cacheprovider test_recovery.py

# What a request costs, against QEMU's own source, which is built beside.
.PHONY: bench bench-short
bench bench-short: setup
	@scripts/install-deps --bench
	@scripts/bench --build-dir $(BUILD) $(if $(filter %-short,$@),--short)

demo: build
	@scripts/demo --build-dir $(BUILD)

docs: setup
	@echo 'Building the manual: two minutes'
	@scripts/docs --build-dir $(BUILD) --all

# Programs, manual and man pages, below PREFIX: /usr/local, if configure was not
# told another. DESTDIR goes before it, as in a package.
PREFIX ?=
DESTDIR ?=
.PHONY: install uninstall
install: setup
	@scripts/install --build-dir $(BUILD) --prefix='$(PREFIX)' --destdir='$(DESTDIR)'

uninstall:
	@scripts/install --build-dir $(BUILD) --prefix='$(PREFIX)' --destdir='$(DESTDIR)' --uninstall

# Debian packages: the distribution's own, with this in it, in $(BUILD)/deb.
.PHONY: deb deb-source
deb deb-source: setup
	@scripts/install-deps --deb
	@scripts/deb --build-dir $(BUILD) $(if $(filter deb,$@),binary,source)

spec:
	@scripts/install-deps --spec
	@spec-proposal/build $(VIRTIO_SPEC:%=--virtio-spec=%) $(BUILD)/spec

hooks-write hooks-check:
	@scripts/hooks $(@:hooks-%=%) --build-dir $(BUILD)

# Series of patches to mail, against the newest QEMU that Debian serves, in
# $(BUILD)-newest/series; check-series builds and tests each of them.
.PHONY: series check-series
series check-series: setup-packages
	@source=$$(scripts/newest-qemu) && \
	    ./configure --build-dir=$(BUILD)-newest --qemu-source="$$source"
	@scripts/series $(if $(filter check-%,$@),build,mail) \
	    --build-dir $(BUILD)-newest $(BUILD)-newest/$@

# What was built goes; QEMU's source and the configuration stay.
clean:
	@[ ! -d $(BUILD)/qemu ] || ninja -C $(BUILD)/qemu clean
	@rm -rf $(BUILD)/guest $(BUILD)/guest-*

# The build directory goes, unless it holds edits that are nowhere else.
distclean:
	@[ ! -d $(BUILD)/src ] || \
	    { edits=$$(scripts/hooks edits --build-dir $(BUILD)) && \
	      { [ -z "$$edits" ] || \
	        { echo "Not in the hooks yet: $$edits"; false; }; }; }
	@rm -rf $(BUILD)

help:
	@echo 'make              build QEMU with virtio-blk CANCEL, and a guest for it'
	@echo 'make check        build and run all tests; or only some:'
	@echo '                  SUITE=style|tools|spec|unit|qtest|guest, TEST=NAME'
	@echo 'make check-newest the same on the newest QEMU that Debian serves;'
	@echo '                  QEMU_SOURCE=DIR: on that one'
	@echo 'make check-race   cancel at random for MINUTES=10; SEED=N to replay'
	@echo 'make check-sanitize, make check-tsan'
	@echo '                  unit and qtest suites with AddressSanitizer and'
	@echo '                  UndefinedBehaviorSanitizer; the engine with'
	@echo '                  ThreadSanitizer; in build directories of their own'
	@echo 'make check-fuzz   the devices with random input, built with clang, for'
	@echo '                  MINUTES=10; says which code that has reached'
	@echo 'make check-storage'
	@echo '                  Ceph, iSCSI, NFS, NBD and SSH servers that hang'
	@echo 'make check-swap   cancel-zero-copy: a hundred thousand pages swapped'
	@echo 'make check-long   half an hour of fio on storage that comes and goes'
	@echo 'make check-soak   fio on four file systems whose storage comes and goes'
	@echo '                  while the host stops, plugs, migrates ...: HOURS=2'
	@echo 'make check-harm   what works with cancel=off works with cancel=on, on'
	@echo '                  storage that is slow, full, hangs ...: in an hour'
	@echo 'make check-debug-kernel'
	@echo '                  the driver on a guest kernel with lockdep and KASAN,'
	@echo '                  which is built first, in 20 minutes; HZ=1000'
	@echo 'make check-recovery'
	@echo '                  all tests of guest-driver/recovery, some of which'
	@echo '                  take minutes'
	@echo 'make bench        what a request costs, against stock QEMU, in ten minutes;'
	@echo '                  make bench-short: part of it, in two'
	@echo 'make install      install it with its manual; PREFIX=/usr/local, DESTDIR='
	@echo 'make uninstall    remove what make install has installed'
	@echo 'make deb          Debian packages that take the place of the distribution'"'"'s'
	@echo '                  qemu-system-x86 (not yet tried to its end); make'
	@echo '                  deb-source: the source package; both in $(BUILD)/deb'
	@echo 'make demo         show what happens to a hung read, with CANCEL and without'
	@echo 'make docs         build QEMU'"'"'s manual with our pages, as HTML'
	@echo 'make spec         build the proposal for the specification, PDF and HTML;'
	@echo '                  VIRTIO_SPEC=DIR: as a part of the specification in DIR'
	@echo 'make hooks-write  bring edits in $(BUILD)/src back into the hooks'
	@echo 'make hooks-check  fail if $(BUILD)/src and the hooks differ'
	@echo 'make series       write series of patches that can be mailed; they are'
	@echo '                  against the newest QEMU, in $(BUILD)-newest/series'
	@echo 'make check-series build and test each of them'
	@echo 'make clean        remove what was built'
	@echo 'make distclean    remove the build directory'
	@echo
	@echo 'BUILD=DIR builds in another directory; ./configure --help has options.'
	@echo 'Fetched packages stay in ~/.cache/qemu-virtio-blk-cancel.'
