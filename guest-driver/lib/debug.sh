# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A Linux 6.12 with lockdep and KASAN, which Debian does not have: Debian's
# source in the configuration of guest-driver/debug*.config.  Built once, in the
# project's cache, with nothing but what the test guest needs.
#
#   . guest-driver/lib/debug.sh       (after guest-driver/lib/kernel.sh)
#   debug_kernel_get                  as kernel_get does for the others
#
# HZ is 250 as in Debian's.  DEBUG_KERNEL_HZ=1000, as Ubuntu has it, is another
# kernel, for what goes by the clock: without what makes the guest slow.

debug_hz=${DEBUG_KERNEL_HZ:-250}
debug_suffix=-debug

# The configuration
debug_config() {
    cat "$here/debug.config"
    [ "$debug_hz" != 250 ] || cat "$here/debug-checks.config"
    printf 'CONFIG_HZ_%s=y\n' "$debug_hz"
}

# debug_kernel_build DIR: fills DIR.  A subshell, for its working directory.
debug_kernel_build() (
    set -e
    mkdir -p "$1"
    cd "$1"
    say "fetching the source of Linux $kernel_series (150 MB, once)"
    apt_in "$suite" apt-get -q=2 download "linux-source-$kernel_series=$version"
    say "unpacking it (2 GB, once)"
    dpkg --fsys-tarfile linux-source-*.deb |
        tar -xO "./usr/src/linux-source-$kernel_series.tar.xz" |
        tar -xJ --strip-components=1 --one-top-level=source
    rm linux-source-*.deb

    make=(env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u KBUILD_OUTPUT -u ARCH
          make -s -C source -j"${DEBUG_KERNEL_JOBS:-$(nproc)}"
          "CC=${CC:-gcc}" "LOCALVERSION=$debug_suffix")
    debug_config > config
    "${make[@]}" KCONFIG_ALLCONFIG="$PWD/config" allnoconfig > log 2>&1 || {
        cat log >&2
        die "make allnoconfig failed"
    }
    # Kconfig drops in silence what lacks what it depends on
    missing=$(grep '^CONFIG_' config | grep -vxFf source/.config || :)
    [ -z "$missing" ] || die "this Linux does not take: ${missing//$'\n'/ }"

    say "building it (1300 files, 10 to 20 minutes with two free CPUs, once)"
    SECONDS=0
    "${make[@]}" bzImage modules > log 2>&1 || {
        tail -n 40 log >&2
        die "the debug kernel does not build"
    }
    say "that took $((SECONDS / 60)) minutes and $((SECONDS % 60)) seconds"
    release=$(make -s --no-print-directory -C source \
                   "LOCALVERSION=$debug_suffix" kernelrelease)
    "${make[@]}" INSTALL_MOD_PATH="$PWD/root" INSTALL_MOD_STRIP=1 \
        modules_install >> log 2>&1
    mkdir -p root/boot
    cp source/arch/x86/boot/bzImage "root/boot/vmlinuz-$release"
    echo "$release" > release
)

# Sets kernel_*; builds what is not in the cache.  What was built of an older
# source stays in use as 6.12 itself does; a new configuration is a new kernel.
debug_kernel_get() {
    local base=$PROJECT_CACHE/linux-6.12-debug dir suite version release
    kernel_series=6.12
    dir=$base/$(debug_config | sha256sum | cut -c1-16)
    mkdir -p "$base"
    exec {kernel_lock}> "$base/lock"
    flock "$kernel_lock"
    if [ ! -e "$dir/release" ]; then
        rm -rf "$dir"
        suite=$(kernel_suite)
        kernel_find "$suite"
        # In place, for what is built depends on where
        debug_kernel_build "$dir"
    fi
    exec {kernel_lock}>&-
    kernel_release=$(< "$dir/release")
    kernel_source=$dir/source
    kernel_build=$dir/source
    kernel_root=$dir/root
}
